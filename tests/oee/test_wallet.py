from __future__ import annotations

import json
from pathlib import Path

import pytest
from solders.keypair import Keypair

from engine.errors import StartupError
from oee.wallet import development_wallet


def test_a_missing_key_is_created_for_its_owner_only_and_kept(tmp_path: Path) -> None:
    key_file = tmp_path / "wallet.json"

    first, second = development_wallet(key_file), development_wallet(key_file)

    assert key_file.stat().st_mode & 0o777 == 0o600
    assert first == second


def test_the_file_is_what_solana_tools_read_and_write(tmp_path: Path) -> None:
    key_file = tmp_path / "wallet.json"
    keypair = Keypair()
    key_file.write_text(json.dumps(list(bytes(keypair))))

    assert development_wallet(key_file).address == str(keypair.pubkey())


def test_the_key_is_not_shown(tmp_path: Path) -> None:
    key_file = tmp_path / "wallet.json"

    shown = repr(development_wallet(key_file))

    secret = Keypair.from_bytes(bytes(json.loads(key_file.read_text())))
    assert str(secret) not in shown
    assert str(list(bytes(secret)))[1:-1] not in shown


@pytest.mark.parametrize("content", ["", "[1, 2, 3]", "[300]", '{"key": 1}', '["a"]', "7"])
def test_a_file_without_a_key_is_refused_without_a_word_of_its_content(
    tmp_path: Path, content: str
) -> None:
    key_file = tmp_path / "wallet.json"
    key_file.write_text(content)

    with pytest.raises(StartupError, match=r"wallet\.json is not a key file: a JSON array"):
        development_wallet(key_file)
