"""What an account's limits say about an order before it is accepted."""

from __future__ import annotations

from engine.allowance import AccountLimits
from engine.errors import RiskLimit, Violation
from engine.order import OrderRequest
from engine.token import Tokens


def require_within(wanted: OrderRequest, limits: AccountLimits, tokens: Tokens) -> None:
    """Raise RiskLimit with every field that goes beyond what the account may do."""
    violations = []
    if limits.allowed_tokens:
        allowed = sorted(tokens.by_mint(mint).symbol for mint in limits.allowed_tokens)
        for field, mint in (("token_in", wanted.token_in), ("token_out", wanted.token_out)):
            if mint not in limits.allowed_tokens:
                symbol = tokens.by_mint(mint).symbol
                words = f"{symbol} is not allowed for this account: only {', '.join(allowed)}"
                violations.append(Violation(field, words))
    most = limits.max_amounts_in.get(wanted.token_in)
    if most is not None and wanted.amount_in > most:
        token = tokens.by_mint(wanted.token_in)
        words = (
            f"{token.format(wanted.amount_in)} {token.symbol} is above this account's limit "
            f"of {token.format(most)}"
        )
        violations.append(Violation("amount_in", words))
    if violations:
        raise RiskLimit(violations)
