"""The wallet's key is read, or refused without a word of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import SecretStr
from solders.keypair import Keypair

from engine.errors import StartupError
from executor_svc import wallet


def test_a_key_is_read_from_its_file_or_from_the_environment(tmp_path: Path) -> None:
    key = Keypair()
    text = json.dumps(list(bytes(key)))
    (tmp_path / "wallet.json").write_text(text)

    assert wallet.load(tmp_path / "wallet.json", None) == key
    assert wallet.load(None, SecretStr(text)) == key


@pytest.mark.parametrize("text", ["[1, 2, 3]", "secretsecret", '{"key": 1}', "[999]", "null"])
def test_a_malformed_key_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "wallet.json").write_text(text)

    with pytest.raises(StartupError, match="JSON array of 64 numbers") as caught:
        wallet.load(tmp_path / "wallet.json", None)

    assert text not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_missing_key_says_which_setting_to_give(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="WALLET_KEY_FILE is not set"):
        wallet.load(None, None)
    with pytest.raises(StartupError, match="No such file"):
        wallet.load(tmp_path / "none.json", None)
