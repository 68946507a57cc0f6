"""A snapshot that is no pool is refused by field, value and remedy."""

from __future__ import annotations

from typing import Any

import pytest

from engine.amm import meteora_dlmm, raydium_clmm, raydium_cpmm
from engine.amm.kinds import KINDS
from engine.amm.snapshot import MAX_ROWS, Fields, InvalidSnapshot

CPMM = {
    "vault_0": "5",
    "vault_1": 5,
    "trade_fee_rate": 2500,
    "protocol_fee_rate": 120_000,
    "fund_fee_rate": 40_000,
}


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("vault_0", 2**64, "vault_0: 18446744073709551616 is not an integer in 0"),
        ("vault_0", "-1", "vault_0: -1 is not an integer in 0"),
        ("vault_0", "1.5", "vault_0: '1.5' is not an integer"),
        ("vault_0", 1.5, "vault_0: 1.5 is not an integer"),
        ("vault_0", True, "vault_0: True is not an integer"),
        ("vault_0", "9" * 1000, "vault_0: '999"),
        ("vault_0", [5], "vault_0: [5] is not an integer"),
        ("trade_fee_rate", None, "trade_fee_rate: missing"),
        ("creator_fee_rate", 1_000_000, "creator_fee_rate: 1000000 is not an integer in 0"),
        ("protocol_fee_rate", 1_000_001, "protocol_fee_rate: 1000001 is not an integer in 0"),
        ("creator_fee_on", 3, "creator_fee_on: 3 is not an integer in 0 … 2"),
        ("trade_fee_rate", 1_000_000, "trade_fee_rate: 1000000 is not an integer in 0 … 999999"),
        ("enable_creator_fee", "yes", "enable_creator_fee: 'yes' is neither true nor false"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: Any, said: str) -> None:
    with pytest.raises(InvalidSnapshot) as error:
        raydium_cpmm.load({**CPMM, field: value})

    assert str(error.value).startswith(said)
    assert len(str(error.value)) < 160


def test_inner_fields_are_named_with_their_path() -> None:
    with pytest.raises(InvalidSnapshot, match=r"^params\.base_factor: missing"):
        meteora_dlmm.load({"bin_step": 1, "active_id": 0, "params": {}, "v": {}, "bins": []})


@pytest.mark.parametrize(
    ("ticks", "said"),
    [
        (None, r"^ticks: None is not a list"),
        ([[0]], r"^ticks\[0\]: \[0\] is not a list of 2 integers"),
        ([[0, 1], [443637, 1]], r"^ticks\[1\]: 443637 is not an integer in -443636"),
        ([[0, 2**127]], r"^ticks\[0\]: 1701"),
        ([[7, 1], [0, 1], [7, -1]], r"^ticks: 7 is there twice"),
    ],
)
def test_rows_are_named_with_their_place(ticks: Any, said: str) -> None:
    with pytest.raises(InvalidSnapshot, match=said):
        raydium_clmm.load({"ticks": ticks})


@pytest.mark.parametrize("kind", KINDS)
def test_something_else_is_no_pool(kind: str) -> None:
    for nothing in ({}, {"kind": kind}):
        with pytest.raises(InvalidSnapshot):
            KINDS[kind].load(nothing)


def test_more_rows_than_any_pool_has_are_not_read() -> None:
    rows = [[tick, 0] for tick in range(MAX_ROWS + 1)]

    assert len(Fields({"ticks": rows[:-1]}).rows("ticks", (0, MAX_ROWS), (0, 0))) == MAX_ROWS
    with pytest.raises(InvalidSnapshot, match=rf"^ticks: {MAX_ROWS + 1} rows are more than "):
        Fields({"ticks": rows}).rows("ticks", (0, MAX_ROWS), (0, 0))
