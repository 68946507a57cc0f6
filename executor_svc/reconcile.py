"""Makes a restored database safe to sign with: `python -m executor_svc.reconcile`.

Prints what it did as one line of JSON. Exit codes: 0 signing goes on; 1 signing goes on or stays
halted, and the record contradicts the chain: see `contradictions` and `signing`; 2 it could not
finish and signing stays halted: run it again.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path

from pydantic import Field, SecretStr

from engine import runtime
from engine.chain_client import open_chain
from engine.errors import StartupError, StoreUnavailable, Unanswered
from engine.settings import Address, PeerSettings
from engine.store import open_store
from executor_svc import wallet
from executor_svc.reconciliation import Reconciliation, Report


class Settings(PeerSettings):
    postgres_dsn: SecretStr = Field(description="postgresql://USER@HOST/DATABASE")
    chain_address: Address = Field(description="HOST:PORT of the chain")
    wallet_key_file: Path | None = Field(
        None, description="a file with the wallet's key, a JSON array of 64 numbers"
    )
    wallet_key: SecretStr | None = Field(
        None, description="the wallet's key itself, instead of wallet_key_file"
    )


async def run(settings: Settings, stop: asyncio.Event) -> None:
    reconciling = asyncio.create_task(_reconcile(settings))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({reconciling, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    reconciling.cancel()
    try:
        report = await reconciling
    except asyncio.CancelledError:
        raise StartupError("stopped before it was done; run it again") from None
    except (StoreUnavailable, Unanswered) as error:
        raise StartupError(f"signing stays halted, run it again: {error}") from None
    sys.stdout.write(f"{json.dumps(asdict(report))}\n")
    if report.contradictions:
        sys.exit(1)


async def _reconcile(settings: Settings) -> Report:
    key = wallet.load(settings.wallet_key_file, settings.wallet_key)
    async with (
        open_store(settings.postgres_dsn.get_secret_value()) as store,
        open_chain(settings.chain_address, settings.peer_tls) as chain,
    ):
        return await Reconciliation(store, chain, str(key.pubkey())).run()


if __name__ == "__main__":
    runtime.main("reconcile", Settings, run)
