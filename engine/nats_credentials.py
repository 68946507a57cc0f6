"""A NATS .creds file: the JWT that says who we are, and the seed that answers a server's nonce."""

from __future__ import annotations

import base64
import re
from binascii import crc_hqx
from contextlib import suppress
from pathlib import Path
from typing import Final

from solders.keypair import Keypair

from engine.errors import StartupError

_PART: Final = re.compile(rb"-BEGIN ([A-Z ]+)-+\s+(\S+)\s+-+END ")
# Two bytes that begin with "SU" in base32 (a seed, of a user), the key, a checksum.
_SEED_BYTES: Final = 2 + 32 + 2


class Credentials:
    """What the file holds, for nats-py to ask for with every connection; read again each time.

    nats-py's own reader needs a package more, never returns from a file without a JWT, and ends
    the connecting for good over a seed that is none. Raises StartupError when the file is no use.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._jwt, self._key = _read(file)

    def sign(self, nonce: str) -> bytes:
        """The nonce's signature, in base64; asked for before the JWT of the same connection."""
        with suppress(StartupError):  # being replaced: what was good stays so
            self._jwt, self._key = _read(self._file)
        return base64.b64encode(bytes(self._key.sign_message(nonce.encode())))

    def jwt(self) -> bytes:
        """The JWT that belongs to what was signed last."""
        return self._jwt


def _read(file: Path) -> tuple[bytes, Keypair]:
    try:
        parts = dict(_PART.findall(file.read_bytes()))
    except OSError:
        raise StartupError(f"NATS_CREDS_FILE: {file} cannot be read") from None
    try:
        return parts[b"NATS USER JWT"], _keypair(parts[b"USER NKEY SEED"])
    except (KeyError, ValueError):
        raise StartupError(
            f"NATS_CREDS_FILE: {file} must hold a user's JWT and seed, "
            "as `nsc generate creds` writes them"
        ) from None


def _keypair(seed: bytes) -> Keypair:
    raw = base64.b32decode(seed + b"=" * (-len(seed) % 8))
    checksum = int.from_bytes(raw[-2:], "little")
    if not seed.startswith(b"SU") or len(raw) != _SEED_BYTES or crc_hqx(raw[:-2], 0) != checksum:
        raise ValueError("no seed of a user")
    return Keypair.from_seed(raw[2:-2])
