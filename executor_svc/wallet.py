"""The wallet's key: read once, never shown."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pydantic import SecretStr
from solders.keypair import Keypair

from engine.errors import StartupError


def load(file: Path | None, key: SecretStr | None, *, generate: bool) -> Keypair:
    """The key from the environment or from a file, made anew if `generate` and it is missing.

    Raises StartupError, without a word of the key, when there is none or it is malformed.
    """
    if key is not None:
        return _parse(key.get_secret_value(), "WALLET_KEY")
    if file is None:
        raise StartupError(
            "WALLET_KEY_FILE is not set; expected: a file with the wallet's key, a JSON array of "
            "64 numbers (or the key itself in WALLET_KEY)"
        )
    if generate and not file.exists():
        _write(file, Keypair())
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


def _write(file: Path, keypair: Keypair) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        json.dump(list(bytes(keypair)), out)
