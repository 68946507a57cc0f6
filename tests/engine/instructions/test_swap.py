"""Swap instructions: every account follows from the terms, and from nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from solders.pubkey import Pubkey

from engine.instructions import meteora, raydium
from engine.instructions.swap import (
    KIND_OF_PROGRAM,
    KINDS_OF_VENUE,
    LAYOUTS,
    PROGRAM_OF_KIND,
    accounts_of,
    read_amounts,
    swap_instruction,
)
from engine.instructions.terms import Parties, SwapTerms
from engine.programs import RAYDIUM_CLMM, RAYDIUM_CPMM, U64_MAX, token_account
from tests import builders, swaps

SOL, USDC = Pubkey.from_string(builders.SOL), Pubkey.from_string(builders.USDC)
RAY = Pubkey.from_string(builders.RAY)


def named(parties: Parties) -> list[str]:
    return [str(account.pubkey) for account in accounts_of(parties)]


@given(st.sampled_from(swaps.KINDS), st.integers(1, U64_MAX), st.integers(0, U64_MAX))
def test_amounts_come_back_from_the_data_they_make(kind: str, amount_in: int, floor: int) -> None:
    instruction = swap_instruction(swaps.terms(kind, amount_in, floor))

    assert read_amounts(kind, instruction.data) == (amount_in, floor)
    assert KIND_OF_PROGRAM[instruction.program_id] == kind


@pytest.mark.parametrize("kind", swaps.KINDS)
def test_any_other_data_is_not_the_swap(kind: str) -> None:
    whole = swap_instruction(swaps.terms(kind)).data
    tag = bytes([whole[0] ^ 1]) + whole[1:]
    # Without a tail, a longer one is; with one, another is.
    tail = whole[:-1] + bytes([whole[-1] ^ 1]) if LAYOUTS[kind].tail else whole + b"\x00"

    for data in (b"", whole[:-1], whole + b"\x00", tag, tail):
        with pytest.raises(ValueError, match="is not the swap of"):
            read_amounts(kind, data)


@pytest.mark.parametrize("kind", swaps.KINDS)
def test_the_layout_tells_pool_wallet_and_token_accounts(kind: str) -> None:
    parties, layout = swaps.parties(kind), LAYOUTS[kind]
    accounts = accounts_of(parties)

    assert accounts[layout.pool].pubkey == parties.pool
    assert accounts[layout.wallet].pubkey == parties.wallet
    assert accounts[layout.pays].pubkey == token_account(parties.wallet, SOL)
    assert accounts[layout.receives].pubkey == token_account(parties.wallet, USDC)
    assert len(accounts) == layout.fixed + len(parties.arrays)
    assert [account.pubkey for account in accounts if account.is_signer] == [parties.wallet]


@pytest.mark.parametrize("kind", swaps.KINDS)
def test_everything_a_swap_may_write_is_the_pool_s_or_the_wallet_s_two_token_accounts(
    kind: str,
) -> None:
    mine, other = swaps.parties(kind), swaps.parties(kind, number=11)
    theirs = mine._replace(wallet=swaps.address(99))

    def writable(parties: Parties) -> set[Pubkey]:
        return {account.pubkey for account in accounts_of(parties) if account.is_writable}

    own = {token_account(mine.wallet, mint) for mint in (SOL, USDC)}
    assert writable(mine) & writable(other) == own
    assert writable(mine) - writable(theirs) == own


@pytest.mark.parametrize("kind", ["raydium_amm_v4", "meteora_dlmm", "meteora_damm_v2"])
def test_vaults_stand_in_the_pool_s_own_order_whichever_way_the_swap_goes(kind: str) -> None:
    forth = swaps.parties(kind)
    back = forth._replace(mint_in=USDC, mint_out=SOL, zero_for_one=False)
    layout = LAYOUTS[kind]
    moved = {layout.pays, layout.receives}

    differing = {
        place
        for place, (one, other) in enumerate(zip(named(forth), named(back), strict=True))
        if one != other
    }

    assert differing == moved
    # AMM v4 names no mint: its vaults are the market's, whichever comes first.
    assert (named(forth) == named(forth._replace(zero_for_one=False))) == (kind == "raydium_amm_v4")


def test_a_pool_that_is_not_its_market_s_has_no_swap() -> None:
    agreed = swaps.parties("raydium_amm_v4")

    for wrong in (
        agreed._replace(market=None),
        agreed._replace(market=swaps.address(8)),
        agreed._replace(pool=swaps.address(8)),
    ):
        with pytest.raises(ValueError, match="not that of the market"):
            accounts_of(wrong)


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        ("raydium_cpmm", {"config": 2**16}),
        ("raydium_cpmm", {"config": -1}),
        ("raydium_clmm", {"config": 2**16}),
        ("raydium_clmm", {"arrays": (2**31,)}),
        ("meteora_dlmm", {"arrays": (2**63,)}),
        ("orca_whirlpool", {}),
    ],
)
def test_hints_that_lead_to_no_address_are_refused(kind: str, hint: dict[str, object]) -> None:
    parties = swaps.parties(kind)._replace(**hint)  # type: ignore[arg-type]

    with pytest.raises(ValueError, match=r"is not|no program"):
        accounts_of(parties)


@pytest.mark.parametrize("amount_in", [0, U64_MAX + 1])
def test_amounts_outside_u64_are_refused(amount_in: int) -> None:
    with pytest.raises(ValueError, match="amount_in"):
        replace(swaps.terms(), amount_in=amount_in)


def test_a_swap_of_a_token_for_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="two different mints"):
        SwapTerms(swaps.parties()._replace(mint_out=SOL), 1, 0)


def test_every_kind_belongs_to_one_venue_and_one_program() -> None:
    kinds = [kind for each in KINDS_OF_VENUE.values() for kind in each]

    assert sorted(kinds) == sorted(PROGRAM_OF_KIND)
    assert len(KIND_OF_PROGRAM) == len(PROGRAM_OF_KIND)


# ── addresses of the main network ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("derived", "known"),
    [
        (raydium.CPMM_AUTHORITY, "GpMZbSM2GgvTKHJirzeGfMFoaZ8UR2X7F4v8vHTvxFbL"),
        (raydium.AMM_V4_AUTHORITY, "5Q544fKrFoe6tsEbD7S8EmxGTJYAKtTVhAW5Q5pge4j1"),
        (meteora.DLMM_EVENT_AUTHORITY, "D1ZN9Wj1fRSUQfCjhvnu1hqDMT7hzjzBBpi12nVniYD6"),
        (meteora.DAMM_V2_POOL_AUTHORITY, "HLnpSz9h2S4hiLQ43rnSD9XkcUThA7B8hQMKmDaiTLcC"),
        (meteora.DAMM_V2_EVENT_AUTHORITY, "3rmHSu74h1ZcmAisVcWerTCiRDQbUrBKmcwptYGjHfet"),
        (raydium.amm_config(RAYDIUM_CLMM, 4), "9iFER3bpjf1PTTCQCfTRu17EJgvsxo9pVyA9QWwEuX4x"),
    ],
)
def test_derived_addresses_are_those_of_the_main_network(derived: Pubkey, known: str) -> None:
    assert str(derived) == known


def test_fee_tiers_are_those_of_the_main_network() -> None:
    assert [str(raydium.amm_config(RAYDIUM_CPMM, index)) for index in range(8)] == [
        "D4FPEruKEHrG5TenZ2mpDGEfu1iUvTiqBxvpU8HLBvC2",
        "G95xxie3XbkCqtE39GgQ9Ggc7xBC8Uceve7HFDEFApkc",
        "2fGXL8uhqxJ4tpgtosHZXT4zcQap6j62z3bMDxdkMvy5",
        "C7Cx2pMLtjybS3mDKSfsBj4zQ3PRZGkKt7RCYTTbCSx2",
        "BhH6HphjBKXu2PkUc2aw3xEMdUvK14NXxE5LbNWZNZAA",
        "BgxH5ifebqHDuiADWKhLjXGP5hWZeZLoCdmeWJLkRqLP",
        "B5u5x9S5pyaJdonf7bXUiEnBfEXsJWhNxXfLGAbRFtg2",
        "ESLj2Rzmvn3RhDo4Z18hY1wYmGyC9xM4ZtRXhvoFkDAi",
    ]


@pytest.mark.parametrize(
    ("parties", "known"),
    [
        (
            # RAY/SOL: RAY is the coin though SOL's mint sorts first.
            Parties(
                "raydium_amm_v4",
                Pubkey.from_string("AVs9TA4nWDzfPJE9gGVNJMVhcQy3V9PGazuz33BfG2RA"),
                RAY,
                SOL,
                swaps.WALLET.pubkey(),
                market=Pubkey.from_string("C6tp2RVZnxBPFbnAsfTjis8BN9tycESAT4SgDQgbbrsA"),
            ),
            {
                3: "Em6rHi68trYgBFyJ5261A2nhwuQWfLcirgzZZYoRcrkX",
                4: "3mEFzHsJyu2Cpjrz6zPmTzP7uoLFj9SbbecGVzzkL1mJ",
            },
        ),
        (
            Parties(
                "raydium_clmm",
                Pubkey.from_string("3ucNos4NbumPLZNWztqGHNFFgkHeRMBQAVemeeomsUxv"),
                SOL,
                USDC,
                swaps.WALLET.pubkey(),
            ),
            {
                5: "4ct7br2vTPzfdmY3S5HLtTxcGSBfn6pnw98hsS6v359A",
                6: "5it83u57VRrVgc51oNV19TTmAJuffPx5GtGwQr7gQNUo",
                7: "3Y695CuQ8AP4anbwAqiEBeQF9KxqHFr8piEwvw3UePnQ",
            },
        ),
        (
            Parties(
                "meteora_dlmm",
                Pubkey.from_string("5rCf1DM8LjKTw4YqhnoLcngyZYeNnQqztScTogYHAS6"),
                USDC,
                SOL,
                swaps.WALLET.pubkey(),
                zero_for_one=False,
            ),
            {
                2: "EYj9xKw6ZszwpyNibHY7JD5o3QgTVrSdcBp1fMJhrR9o",
                3: "CoaxzEh8p5YyGLcj36Eo3cUThVJxeKCs7qvLAGDYwBcz",
                8: "59YuGWPunbchD2mbi9U7qvjWQKQReGeepn4ZSr9zz9Li",
            },
        ),
    ],
    ids=["AMM v4 RAY/SOL", "CLMM SOL/USDC", "DLMM SOL/USDC"],
)
def test_a_known_pool_s_own_accounts_are_found(parties: Parties, known: dict[int, str]) -> None:
    accounts = named(parties)

    assert {place: accounts[place] for place in known} == known
