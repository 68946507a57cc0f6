"""Why a route was chosen, or none, in one plain sentence with numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from engine.fractions import PPM
from engine.route import Candidate, Leg, VenueQuote

PPM_A_BPS: Final = 100
# How an amount of a token is told.
Written = Callable[[str, int], str]
COST_UNKNOWN: Final = "; network cost is not counted, as no pool tells what a lamport is worth"


def why(winner: Candidate, others: Sequence[Candidate], *, cost_is_known: bool) -> str:
    """Why the winner is better than the others, which are in the order of their rank."""
    if len(winner.route.legs) > 1:
        said = _why_several(winner, others)
    elif not others:
        return f"{winner.route.venue} was the only venue with a quote"
    else:
        said = _why_single(winner, others[0])
    return said if cost_is_known else said + COST_UNKNOWN


def _why_several(winner: Candidate, others: Sequence[Candidate]) -> str:
    route = _described(winner)
    singles = [each for each in others if len(each.route.legs) == 1]
    if not singles:
        return f"{route} was the only way: no single pool was offered for it"
    single = max(singles, key=lambda each: each.net_amount_out)
    extra = winner.network_fee_lamports - single.network_fee_lamports
    legs = "leg" if len(winner.route.legs) == 2 else "legs"
    fee = f"{extra:,} lamports for the extra {legs}" if extra >= 0 else "network fees"
    lead = winner.net_amount_out - single.net_amount_out
    compared = f"{_bps(abs(lead), winner)} bps {'more' if lead >= 0 else 'less'}"
    said = (
        f"{route} nets {compared} than the best single pool, at {single.route.venue}, after {fee}"
    )
    return said if lead >= 0 else f"{said}, but {_past(winner, single)}"


def _why_single(winner: Candidate, second: Candidate) -> str:
    best, name = winner.route.venue, second.route.venue
    if len(second.route.legs) > 1:
        name = _described(second)
    lead = winner.net_amount_out - second.net_amount_out
    if lead < 0:
        more = f"{name} offered {_bps(-lead, winner)} bps more than {best}"
        return f"{more}, but {_past(winner, second)}"
    if lead == 0 and winner.route.quoted_amount_out == second.route.quoted_amount_out:
        if winner.score_ppm != second.score_ppm:
            return f"{best} and {name} offered the same, and {_past(winner, second)}"
        rule = (
            "has the lower price impact"
            if second.price_impact_ppm > winner.price_impact_ppm
            else "comes first in the alphabet"
        )
        return f"{best} and {name} offered the same; {best} {rule}"
    if second.route.quoted_amount_out > winner.route.quoted_amount_out:
        return f"{name} nets {_bps(lead, winner)} bps less than {best} after network cost"
    return f"{name} offered {_bps(lead, winner)} bps less than {best}"


def _past(winner: Candidate, other: Candidate) -> str:
    return (
        f"by their past they count {_signed(winner.score_ppm)} and {_signed(other.score_ppm)} bps"
    )


def _described(candidate: Candidate) -> str:
    paths = _paths(candidate.route.legs)
    if len(paths) == 1:
        return f"a route over {_path(paths[0])}"
    whole = sum(path[0].amount_in for path in paths)
    parts = [f"{_percent(path[0].amount_in, whole)} % over {_path(path)}" for path in paths]
    return f"a split of {', '.join(parts[:-1])} and {parts[-1]}"


def _paths(legs: Sequence[Leg]) -> list[list[Leg]]:
    """Legs that follow one another, together."""
    token_in = legs[0].mint_in
    paths: list[list[Leg]] = []
    for leg in legs:
        if leg.mint_in == token_in:
            paths.append([])
        paths[-1].append(leg)
    return paths


def _path(legs: Sequence[Leg]) -> str:
    return " then ".join(f"{leg.venue} {leg.kind}" for leg in legs)


def _percent(part: int, whole: int) -> str:
    """In tenths, rounded to the nearest."""
    tenths = (part * 1000 + whole // 2) // whole
    return f"{tenths // 10}.{tenths % 10}"


def _bps(difference: int, winner: Candidate) -> str:
    """Of what the winner is quoted, in hundredths of a basis point, integers throughout."""
    return _hundredths(difference * PPM // winner.route.quoted_amount_out)


def _signed(ppm: int) -> str:
    return f"{'-' if ppm < 0 else '+'}{_hundredths(abs(ppm))}"


def _hundredths(ppm: int) -> str:
    return f"{ppm // PPM_A_BPS}.{ppm % PPM_A_BPS:02d}"


def in_base_units(mint: str, amount: int) -> str:
    """An amount where nobody knows how many decimals its token has."""
    return f"{amount} base units"


def below_floor(best: Candidate, floor: int, mint_out: str, written: Written) -> str:
    """When even the most that is offered is too little."""
    quoted = written(mint_out, best.route.quoted_amount_out)
    return (
        f"the best quote, {quoted} from {best.route.venue}, "
        f"is below the floor of {written(mint_out, floor)}"
    )


def too_much_impact(candidates: Sequence[Candidate], limit_bps: int) -> str:
    """When every way moves its pools' prices too far."""
    impacts = ", ".join(
        f"{each.route.venue} {_hundredths(each.price_impact_ppm)}" for each in candidates
    )
    return f"every quote's price impact is above the account's limit of {limit_bps} bps: {impacts}"


def too_much_of_a_pool(venue: str, share_ppm: int, limit_bps: int) -> str:
    """When a venue's pools could pay, but not from so little."""
    return (
        f"the pool of {venue} would pay {_hundredths(share_ppm)} bps of all it holds, "
        f"MAX_POOL_SHARE_BPS allows {limit_bps}"
    )


def nothing_offered(asked: Sequence[VenueQuote]) -> str:
    """When every venue refused."""
    refusals = [(quote.venue, quote.refusal) for quote in asked if quote.refusal is not None]
    words = "; ".join(f"{venue}: {refusal.message}" for venue, refusal in refusals)
    return f"no venue offered a quote ({words})" if words else "no venue was asked"
