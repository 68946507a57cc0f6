"""Routes, as people read them."""

from __future__ import annotations

import pytest

from engine.v1 import orders_pb2 as pb
from oee import routes
from tests.oee.reading import text


def leg(venue: str, swap: str, amounts: str, **facts: str) -> pb.RouteLeg:
    """A leg from "SOL USDC" and "937.5 140211.331 138809.2": paid, quoted, floor."""
    token_in, token_out = swap.split()
    amount_in, quoted, least = amounts.split()
    return pb.RouteLeg(
        venue=venue,
        kind=f"{venue}_kind",
        pool="8xY4hcQeDf7k9Fh2",
        token_in=token_in,
        token_out=token_out,
        amount_in=amount_in,
        quoted_amount_out=quoted,
        min_amount_out=least,
        **facts,
    )


DIRECT = leg("raydium", "SOL USDC", "900 135000 134000")
TO_USDT = leg("meteora", "SOL USDT", "600 90000 89000")
FROM_USDT = leg("raydium", "USDT USDC", "89000 88900 88000")
SPLIT = [DIRECT, TO_USDT, FROM_USDT]


@pytest.mark.parametrize(
    ("legs", "found"),
    [
        ([], []),
        ([DIRECT], [[DIRECT]]),
        ([TO_USDT, FROM_USDT], [[TO_USDT, FROM_USDT]]),
        (SPLIT, [[DIRECT], [TO_USDT, FROM_USDT]]),
        ([TO_USDT, DIRECT, FROM_USDT], [[TO_USDT, FROM_USDT], [DIRECT]]),
        ([TO_USDT, TO_USDT, FROM_USDT, FROM_USDT], [[TO_USDT, FROM_USDT]] * 2),
    ],
)
def test_a_leg_follows_the_one_that_receives_what_it_pays(
    legs: list[pb.RouteLeg], found: list[list[pb.RouteLeg]]
) -> None:
    assert routes.paths(legs) == found


@pytest.mark.parametrize(
    ("legs", "line"),
    [
        ([], ""),
        ([DIRECT], "raydium raydium_kind"),
        ([TO_USDT, FROM_USDT], "meteora meteora_kind ─▶ raydium raydium_kind via USDT"),
        (
            SPLIT,
            "60 % raydium raydium_kind + "
            "40 % meteora meteora_kind ─▶ raydium raydium_kind via USDT",
        ),
    ],
)
def test_a_route_fits_on_a_line(legs: list[pb.RouteLeg], line: str) -> None:
    assert routes.brief(legs) == line


def test_a_split_is_drawn_with_a_bar_a_path_and_a_line_a_leg() -> None:
    drawn = text(routes.drawing(SPLIT)).splitlines()

    assert [line.split("  ")[0] for line in drawn if "%" in line] == ["60 %", "40 %"]
    assert [line.count("█") for line in drawn] == [12, 8, 0, 0]
    assert drawn[0].endswith(
        "SOL ─▶ USDC          raydium  raydium_kind  8xY4…  900 → 135000   floor 134000"
    )
    assert drawn[1].endswith("SOL ─▶ USDT ─▶ USDC")
    assert drawn[2].split()[:3] == ["SOL", "─▶", "USDT"]
    assert drawn[3].split()[:3] == ["USDT", "─▶", "USDC"]


@pytest.mark.parametrize(
    ("amounts", "shares", "eighths"),
    [
        (("1", "2"), ("33.3 %", "66.7 %"), [53, 107]),
        (("1", "999"), ("0.1 %", "99.9 %"), [0, 160]),
    ],
)
def test_shares_are_told_to_a_tenth_and_bars_drawn_to_an_eighth_of_a_cell(
    amounts: tuple[str, str], shares: tuple[str, str], eighths: list[int]
) -> None:
    legs = [leg("raydium", "SOL USDC", f"{amount} 1 1") for amount in amounts]
    drawn = text(routes.drawing(legs)).splitlines()
    blocks = " ▏▎▍▌▋▊▉█"

    assert all(line.lstrip().startswith(share) for share, line in zip(shares, drawn, strict=True))
    assert [sum(blocks.index(c) for c in line if c in blocks) for line in drawn] == eighths


def candidate(net: str, *legs: pb.RouteLeg, **facts: str) -> pb.RouteCandidate:
    return pb.RouteCandidate(legs=legs, net_amount_out=net, network_fee_lamports=8100, **facts)


def test_ways_not_taken_are_told_with_how_much_less_they_leave() -> None:
    left = (("223900", SPLIT), ("223676.1", [DIRECT]), ("224000", [TO_USDT]))
    ways = [candidate(net, *legs) for net, legs in left]
    header, winner, second, scored = text(routes.candidates(ways)).splitlines()

    column = header.index("less bps") + len("less bps")
    assert winner.startswith("*")
    assert [line[:column].split()[-1] for line in (second, scored)] == ["10.00", "-4.47"]


def test_the_totals_say_what_the_network_takes() -> None:
    decided = pb.RouteDecision(legs=SPLIT, quoted_amount_out="223900", min_amount_out="222000")
    plain = routes.totals(decided)
    decided.candidates.append(
        candidate("223899.9", *SPLIT, network_cost="0.1", price_impact_bps="38.1")
    )

    assert plain == "receive 223900 USDC, floor 222000"
    assert routes.totals(decided) == (
        "receive 223900 USDC, floor 222000; network 8100 lamports = 0.1 USDC; "
        "net 223899.9 USDC, impact 38.1 bps"
    )
    decided.candidates[0].network_cost = ""
    assert "network 8100 lamports; net" in routes.totals(decided)


def test_quotes_say_where_they_come_from_and_which_are_of_the_route() -> None:
    decided = pb.RouteDecision(venue="raydium+meteora")
    decided.quotes.add(venue="meteora", kind="meteora_dlmm", amount_out="1", is_local=True)
    decided.quotes.add(venue="orca", kind="whirlpool", amount_out="2")
    refusal = pb.OrderError(reason="VENUE_TIMEOUT", message="late")
    decided.quotes.add(venue="raydium", refusal=refusal)
    shown = [line.split() for line in text(routes.quotes(decided)).splitlines()[1:]]

    assert shown == [
        ["*", "meteora", "meteora_dlmm", "local", "1"],
        ["orca", "whirlpool", "asked", "2"],
        ["*", "raydium", "VENUE_TIMEOUT:", "late"],
    ]


def test_a_decision_without_a_route_shows_its_quotes_alone() -> None:
    decided = pb.RouteDecision(why="none")

    assert len(list(routes.decision(decided))) == 1


def test_venues_pasts_are_shown_where_they_are_known() -> None:
    decided = pb.RouteDecision(legs=[DIRECT])
    score = decided.scores.add(
        venue="raydium", attempts=412, realised_bps="-1.2", failed_percent="0.4", score_bps="-2"
    )
    score.latency.FromMilliseconds(31)
    *_, last = routes.decision(decided)

    assert text(last).splitlines()[1].split() == ["raydium", "412", "-1.2", "0.4", "31.0", "-2"]
