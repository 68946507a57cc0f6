"""How routes look: what venues quote, the paths that are taken, and the ways not taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Final

from rich.table import Table

from engine.fractions import BASIS_POINTS
from engine.v1 import orders_pb2 as pb
from oee.table import table

ARROW: Final = " ─▶ "
BAR_WIDTH: Final = 20
# A bar's last cell, in eighths.
EIGHTHS: Final = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")
# Enough of an address to tell pools apart.
SHOWN_ADDRESS: Final = 4

# Legs one after the other: each pays what the one before it receives.
Path = list[pb.RouteLeg]


def paths(legs: Iterable[pb.RouteLeg]) -> list[Path]:
    """The legs in paths from the token that is paid; the paths split its amount."""
    found: list[Path] = []
    for leg in legs:
        waiting = (path for path in found if path[-1].token_out == leg.token_in)
        follows = next(waiting, None)
        if follows is not None:
            follows.append(leg)
        else:
            found.append([leg])
    return found


def brief(legs: Sequence[pb.RouteLeg]) -> str:
    """A route on one line: "62 % raydium raydium_clmm + 38 % meteora meteora_dlmm"."""
    taken = paths(legs)
    if not taken:
        return ""
    pools = [
        " ─▶ ".join(f"{leg.venue} {leg.kind}".rstrip() for leg in path) + _via(path)
        for path in taken
    ]
    if len(taken) == 1:
        return pools[0]
    shares = map(_percent, _shares(taken))
    return " + ".join(f"{share} {pool}" for share, pool in zip(shares, pools, strict=True))


def decision(decided: pb.RouteDecision) -> Iterator[Table | str]:
    """All of a decision: the quotes, the route drawn, the ways not taken, the venues' past."""
    yield quotes(decided)
    if decided.legs:
        yield ""
        yield drawing(decided.legs)
        yield totals(decided)
    if len(decided.candidates) > 1:
        yield ""
        yield candidates(decided.candidates)
    if decided.scores:
        yield ""
        yield scores(decided.scores)


def quotes(decided: pb.RouteDecision) -> Table:
    """What every venue's best pool offers alone, or why it does not; those of the route marked."""
    chosen = decided.venue.split("+")
    numbers = ("receive", "net price", "fee", "impact bps")
    shown = table(
        *("", "venue", "kind", "state", *numbers, "refusal"), numbers=numbers, wrapped=("refusal",)
    )
    for quote in decided.quotes:
        refused = quote.HasField("refusal")
        shown.add_row(
            "*" if quote.venue in chosen else "",
            quote.venue,
            quote.kind,
            "" if refused else "local" if quote.is_local else "asked",
            quote.amount_out,
            quote.net_price,
            quote.fee,
            quote.price_impact_bps,
            f"{quote.refusal.reason}: {quote.refusal.message}" if refused else "",
        )
    return shown


def drawing(legs: Sequence[pb.RouteLeg]) -> Table:
    """Every path with a bar for its share of the amount, and its legs."""
    drawn = Table.grid(padding=(0, 2))
    drawn.add_column(justify="right")
    drawn.add_column(style="cyan", min_width=BAR_WIDTH)
    taken = paths(legs)
    for path, share in zip(taken, _shares(taken), strict=True):
        start = _percent(share), _bar(share)
        tokens = ARROW.join([path[0].token_in, *(leg.token_out for leg in path)])
        if len(path) == 1:
            drawn.add_row(*start, tokens, *_leg(path[0]))
            continue
        drawn.add_row(*start, tokens)
        for leg in path:
            drawn.add_row("", "", f"  {leg.token_in}{ARROW}{leg.token_out}", *_leg(leg))
    return drawn


def totals(decided: pb.RouteDecision) -> str:
    """What the route yields, what the network takes of it, and what is left."""
    token = paths(decided.legs)[0][-1].token_out
    said = f"receive {decided.quoted_amount_out} {token}, floor {decided.min_amount_out}"
    if not decided.candidates:
        return said
    winner = decided.candidates[0]
    cost = f" = {winner.network_cost} {token}" if winner.network_cost else ""
    return (
        f"{said}; network {winner.network_fee_lamports} lamports{cost}; "
        f"net {winner.net_amount_out} {token}, impact {winner.price_impact_bps} bps"
    )


def candidates(considered: Sequence[pb.RouteCandidate]) -> Table:
    """The ways considered, the winner first, each with how much less than it is left of it."""
    numbers = ("receive", "network", "net", "less bps", "score bps", "impact bps")
    shown = table("", "considered", *numbers, numbers=numbers)
    best = Decimal(considered[0].net_amount_out)
    for number, way in enumerate(considered):
        less = (best - Decimal(way.net_amount_out)) / best * BASIS_POINTS if best else Decimal(0)
        shown.add_row(
            "" if number else "*",
            brief(way.legs),
            way.amount_out,
            way.network_cost,
            way.net_amount_out,
            f"{less:.2f}" if number else "",
            way.score_bps,
            way.price_impact_bps,
        )
    return shown


def scores(known: Iterable[pb.VenueScore]) -> Table:
    """What the venues' orders of late came to."""
    numbers = ("attempts", "realised bps", "failed %", "latency ms", "score bps")
    shown = table("venue", *numbers, numbers=numbers)
    for score in known:
        shown.add_row(
            score.venue,
            str(score.attempts),
            score.realised_bps,
            score.failed_percent,
            f"{Decimal(score.latency.ToMicroseconds()) / 1000:.1f}",
            score.score_bps,
        )
    return shown


def _via(path: Path) -> str:
    return f" via {', '.join(leg.token_out for leg in path[:-1])}" if len(path) > 1 else ""


def _leg(leg: pb.RouteLeg) -> tuple[str, str, str, str, str]:
    pool = leg.pool[:SHOWN_ADDRESS] + "…" * (len(leg.pool) > SHOWN_ADDRESS)
    swap = f"{leg.amount_in} → {leg.quoted_amount_out}"
    return leg.venue, leg.kind, pool, swap, f"floor {leg.min_amount_out}"


def _shares(taken: Sequence[Path]) -> list[Decimal]:
    """The part of the amount, up to 1, that goes through each path."""
    amounts = [Decimal(path[0].amount_in) for path in taken]
    return [amount / sum(amounts) for amount in amounts]


def _bar(share: Decimal) -> str:
    whole, eighths = divmod(round(share * BAR_WIDTH * 8), 8)
    return "█" * whole + EIGHTHS[eighths]


def _percent(share: Decimal) -> str:
    """Tenths only where there are some."""
    return f"{(share * 100).quantize(Decimal('0.1')).normalize():f} %"
