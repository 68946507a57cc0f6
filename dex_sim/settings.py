"""What the simulator reads from its environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from dex_sim.chance import Range
from engine.settings import Address, Addresses, ServingSettings


def _range(value: object) -> object:
    if not isinstance(value, str):
        return value
    low, dash, high = value.partition("-")
    if not low.isdigit() or (dash and not high.isdigit()) or int(low) > int(high or low):
        raise ValueError("must be LOW-HIGH or one number, for example 100-300")
    return Range(int(low), int(high or low))


WholeRange = Annotated[Range, NoDecode, BeforeValidator(_range)]


class Settings(ServingSettings):
    """The simulator's settings."""

    data_directory: Path = Field(description="a directory that may be created; the chain's memory")
    chain_listen_address: Address = Field(
        "127.0.0.1:50061", description="HOST:PORT of the chain and of the control service"
    )
    venue_listen_addresses: Addresses = Field(
        {"raydium": "127.0.0.1:50062", "meteora": "127.0.0.1:50063"},
        description="NAME=HOST:PORT[,NAME=HOST:PORT…], names out of raydium and meteora",
    )
    control_enabled: bool = Field(False, description="true to serve SimControlService as well")
    faults_file: Path | None = Field(
        None, description="an engine.v1.FaultPlan as JSON: faults to begin with"
    )
    seed: int = Field(1, description="a whole number; the same one repeats the schedule")
    slot_milliseconds: int = Field(
        400, ge=0, le=60_000, description="length of a slot; 0: a block as soon as there is work"
    )
    skipped_slot_percent: int = Field(5, ge=0, le=90, description="slots without a block, 0 to 90")
    confirmed_after_slots: int = Field(2, ge=0, le=100, description="slots, 0 to 100")
    finalized_after_slots: int = Field(31, ge=0, le=100, description="slots, 0 to 100")
    quote_delay_milliseconds: WholeRange = Field(
        Range(100, 300), description="LOW-HIGH or one number"
    )
    build_delay_milliseconds: WholeRange = Field(
        Range(50, 150), description="LOW-HIGH or one number"
    )
    chain_delay_milliseconds: WholeRange = Field(Range(5, 20), description="LOW-HIGH or one number")
    drift_ppm: int = Field(
        300, ge=0, le=100_000, description="largest move of a token's price a slot; 0: none"
    )
    trades_a_slot: int = Field(
        4, ge=0, le=100, description="others' swaps a slot, 0 to 100; 0 and no drift: pools stand"
    )
    execution_slippage_bps: WholeRange = Field(
        Range(0, 0), description="LOW-HIGH or one number; what a landing swap yields less"
    )
    nodes: int = Field(3, ge=1, le=100, description="nodes behind the chain's address, 1 to 100")
    node_lag_slots: int = Field(
        1, ge=0, le=50, description="how far a node may be behind, 0 to 50 slots"
    )
