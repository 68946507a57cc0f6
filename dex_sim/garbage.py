"""Answers of a venue that must not be believed."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from msgspec.structs import replace
from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey

from dex_sim import market
from engine.instructions.swap import LAYOUTS, swap_instruction
from engine.instructions.terms import SwapTerms
from engine.programs import TOKEN_PROGRAM, U64_MAX, token_account
from engine.v1 import sim_pb2 as pb
from engine.v1 import venue_pb2

STRANGER: Final = Pubkey(sha256(b"stranger").digest())

DEFAULT_FACTOR: Final = 1000

_TRANSFER: Final = 3


def misquoted(quote: venue_pb2.Quote, how: pb.Misquote) -> None:
    """Make a quote wrong."""
    if how.kind == pb.MISQUOTE_KIND_WRONG_TOKEN:
        pair = (quote.mint_in, quote.mint_out)
        quote.mint_out = next(mint for mint in market.TOKENS if mint not in pair)
    elif how.kind == pb.MISQUOTE_KIND_ABSURD_AMOUNT:
        quote.amount_out = min(quote.amount_out * (how.factor or DEFAULT_FACTOR), U64_MAX)
    elif how.kind == pb.MISQUOTE_KIND_WRONG_AMOUNT_IN:
        quote.amount_in //= 2
    else:
        quote.expire_time.FromSeconds(0)


def misbuilt(terms: SwapTerms, how: pb.Misbuild, elsewhere: SwapTerms) -> list[Instruction]:
    """Instructions that are not what was agreed; `elsewhere` is the same in another pool."""
    if how.kind == pb.MISBUILD_KIND_LOWER_FLOOR:
        return [swap_instruction(replace(terms, min_amount_out=terms.min_amount_out // 2))]
    if how.kind == pb.MISBUILD_KIND_OTHER_POOL:
        return [swap_instruction(elsewhere)]
    if how.kind == pb.MISBUILD_KIND_MORE_IN:
        return [swap_instruction(replace(terms, amount_in=min(2 * terms.amount_in, U64_MAX)))]
    agreed = swap_instruction(terms)
    if how.kind == pb.MISBUILD_KIND_DRAIN:
        return [agreed, _transfer_to_a_stranger(terms)]
    accounts = agreed.accounts
    receives = LAYOUTS[terms.parties.kind].receives
    theirs = token_account(STRANGER, terms.parties.mint_out)
    accounts[receives] = AccountMeta(theirs, is_signer=False, is_writable=True)
    return [Instruction(agreed.program_id, agreed.data, accounts)]


def _transfer_to_a_stranger(terms: SwapTerms) -> Instruction:
    wallet, mint = terms.parties.wallet, terms.parties.mint_in
    return Instruction(
        TOKEN_PROGRAM,
        bytes([_TRANSFER]) + terms.amount_in.to_bytes(8, "little"),
        [
            AccountMeta(token_account(wallet, mint), is_signer=False, is_writable=True),
            AccountMeta(token_account(STRANGER, mint), is_signer=False, is_writable=True),
            AccountMeta(wallet, is_signer=True, is_writable=False),
        ],
    )
