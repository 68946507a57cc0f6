"""The wallet's key: read once, never shown."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import SecretStr
from solders.keypair import Keypair

from engine.errors import StartupError


def load(file: Path | None, key: SecretStr | None) -> Keypair:
    """The key from the environment or from a file.

    Raises StartupError, without a word of the key, when there is none or it is malformed.
    """
    if key is not None:
        return _parse(key.get_secret_value(), "WALLET_KEY")
    if file is None:
        raise StartupError(
            "WALLET_KEY_FILE is not set; expected: a file with the wallet's key, a JSON array of "
            "64 numbers (or the key itself in WALLET_KEY)"
        )
    try:
        return _parse(file.read_text(), f"WALLET_KEY_FILE {file}")
    except OSError as error:
        raise StartupError(f"WALLET_KEY_FILE {file} cannot be read: {error.strerror}") from None


def _parse(text: str, source: str) -> Keypair:
    try:
        return Keypair.from_bytes(bytes(json.loads(text)))
    except (ValueError, TypeError):
        # Not chained: the cause may quote the key.
        raise StartupError(
            f"{source} does not hold a key; expected: a JSON array of 64 numbers"
        ) from None
