"""The development wallet: a key in a file that nobody but its owner reads, and its funds."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from solders.keypair import Keypair

from engine import mints
from engine.certificates import Files
from engine.errors import StartupError
from engine.v1 import chain_pb2, chain_pb2_grpc, sim_pb2, sim_pb2_grpc
from oee.health import channel

CALL_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.1

# What a fresh simulated chain gives it, in base units: a million of each token or more.
# Lamports (no mint) come last: who has them has all the rest.
GIFTS: Final[Mapping[str, int]] = {
    mints.SOL: 10**15,
    mints.USDC: 10**15,
    mints.USDT: 10**15,
    mints.RAY: 10**15,
    mints.JUP: 10**15,
    mints.BONK: 10**17,
    "": 10**15,
}


@dataclass(frozen=True, slots=True)
class Wallet:
    """Where the key is, and the address it signs for; the key itself stays in the file."""

    key_file: Path
    address: str


def development_wallet(key_file: Path) -> Wallet:
    """The wallet in this file (as solana-keygen writes it), created when there is none.

    Raises StartupError, without a word of the content, when the file holds no key.
    """
    if not key_file.exists():
        _write(key_file, Keypair())
    return Wallet(key_file, str(read_key(key_file).pubkey()))


def read_key(key_file: Path) -> Keypair:
    """The key in this file; raises StartupError, without a word of the content, for none."""
    try:
        return Keypair.from_bytes(bytes(json.loads(key_file.read_text())))
    except OSError as error:
        raise StartupError(f"{key_file} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError):
        raise StartupError(f"{key_file} is not a key file: a JSON array of 64 numbers") from None


def _write(key_file: Path, keypair: Keypair) -> None:
    draft = key_file.with_name(f"{key_file.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(list(bytes(keypair)), file)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(key_file)


async def fund(wallet: Wallet, chain_address: str, tls: Files | None = None) -> None:
    """Give a wallet that holds no lamports plenty of everything, once the chain serves.

    Returns when the chain shows the gifts; waits for the chain as long as the caller lets it.
    """
    async with channel(chain_address, tls) as open_channel:
        chain = chain_pb2_grpc.ChainServiceStub(open_channel)
        control = sim_pb2_grpc.SimControlServiceStub(open_channel)

        async def lamports() -> int:
            balances = await chain.GetBalances(
                chain_pb2.GetBalancesRequest(wallet=wallet.address),
                timeout=CALL_SECONDS,
                wait_for_ready=True,
            )
            return balances.lamports

        if await lamports() > 0:
            return
        for mint, amount in GIFTS.items():
            gift = sim_pb2.FundWalletRequest(wallet=wallet.address, mint=mint, amount=str(amount))
            await control.FundWallet(gift, timeout=CALL_SECONDS)
        while True:
            if await lamports() > 0:
                return
            await asyncio.sleep(POLL_SECONDS)
