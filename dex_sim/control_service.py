"""SimControlService: what no real chain offers."""

from __future__ import annotations

from typing import Any, Final

import grpc
from solders.pubkey import Pubkey

from dex_sim import market
from dex_sim.chain import Chain
from dex_sim.effects import check
from dex_sim.execution import LAMPORTS
from engine.errors import InvalidRequest, Violation
from engine.programs import U64_MAX
from engine.v1 import sim_pb2 as pb
from engine.v1 import sim_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

DEFAULT_PAGE: Final = 1000
MAX_PAGE: Final = 10_000
MAX_GIFT_DIGITS: Final = 40


class ControlService(sim_pb2_grpc.SimControlServiceServicer):
    """The simulator's own door."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    async def FundWallet(
        self, request: pb.FundWalletRequest, context: Context
    ) -> pb.FundWalletResponse:
        amount = _gift(request)
        if request.mint == LAMPORTS:
            balance = self._chain.accounts.balance(request.wallet, LAMPORTS)
            if balance + amount > U64_MAX:
                raise InvalidRequest([Violation("amount", "lamports must stay within u64")])
        balance = self._chain.fund(request.wallet, request.mint, amount)
        return pb.FundWalletResponse(balance=str(balance))

    async def ListSwaps(
        self, request: pb.ListSwapsRequest, context: Context
    ) -> pb.ListSwapsResponse:
        if request.limit > MAX_PAGE:
            raise InvalidRequest([Violation("limit", f"must be 1 to {MAX_PAGE}")])
        fills = self._chain.ledger.fills(request.after_number, request.limit or DEFAULT_PAGE)
        return pb.ListSwapsResponse(
            swaps=[
                pb.LandedSwap(
                    number=landed.number,
                    signature=landed.signature,
                    slot=landed.slot,
                    venue=landed.fill.swap.venue,
                    pool=landed.fill.swap.pool,
                    wallet=landed.fill.swap.wallet,
                    mint_in=landed.fill.swap.mint_in,
                    mint_out=landed.fill.swap.mint_out,
                    amount_in=landed.fill.swap.amount_in,
                    amount_out=landed.fill.amount_out,
                    min_amount_out=landed.fill.swap.min_amount_out,
                    memo=landed.memo,
                )
                for landed in fills
            ]
        )

    async def InjectFault(
        self, request: pb.InjectFaultRequest, context: Context
    ) -> pb.InjectFaultResponse:
        return pb.InjectFaultResponse(report=inject(self._chain, request.fault))

    async def ListFaults(
        self, request: pb.ListFaultsRequest, context: Context
    ) -> pb.ListFaultsResponse:
        return pb.ListFaultsResponse(
            reports=self._chain.faults.reports(), slot=self._chain.faults.slot
        )

    async def ClearFaults(
        self, request: pb.ClearFaultsRequest, context: Context
    ) -> pb.ClearFaultsResponse:
        faults = self._chain.faults
        cleared = faults.clear(request.fault_ids) if request.fault_ids else faults.clear_all()
        return pb.ClearFaultsResponse(reports=cleared)


def inject(chain: Chain, fault: pb.Fault) -> pb.FaultReport:
    """Put a fault in force; InvalidRequest, with all that is wrong, when it cannot strike."""
    check(fault, nodes=chain.nodes, finalized_after_slots=chain.rules.finalized_after_slots)
    return chain.faults.inject(fault)


def _gift(request: pb.FundWalletRequest) -> int:
    violations = []
    try:
        Pubkey.from_string(request.wallet)
    except ValueError:
        violations.append(Violation("wallet", "must be a base58 address"))
    if request.mint != LAMPORTS and request.mint not in market.TOKENS:
        violations.append(Violation("mint", "must be empty or the mint of a token traded here"))
    amount = request.amount
    digits = amount.isascii() and amount.isdigit() and len(amount) <= MAX_GIFT_DIGITS
    if not digits or int(amount) == 0:
        violations.append(Violation("amount", "must be a positive whole number in base units"))
    if violations:
        raise InvalidRequest(violations)
    return int(amount)
