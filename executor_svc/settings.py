"""The executor's settings, from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from engine.settings import (
    Address,
    Addresses,
    NatsSettings,
    PeerSettings,
    PostgresDsn,
    ServingSettings,
)


class Settings(NatsSettings, PeerSettings, ServingSettings):
    postgres_dsn: PostgresDsn = Field(description="postgresql://USER@HOST/DATABASE")
    venues: Addresses = Field(description="raydium=HOST:PORT,meteora=HOST:PORT")
    chain_address: Address = Field(description="HOST:PORT of the chain")
    wallet_key_file: Path | None = Field(
        None, description="a file with the wallet's key, a JSON array of 64 numbers"
    )
    wallet_key: SecretStr | None = Field(
        None, description="the wallet's key itself, instead of wallet_key_file"
    )
    listen_address: Address = Field("127.0.0.1:50053", description="HOST:PORT for health")
    concurrency: int = Field(10, ge=1, le=10_000, description="orders in hand at once, 1–10000")
    venue_calls_per_second: float = Field(
        0, ge=0, description="how many calls a second each venue takes from here; 0: any number"
    )
    confirm_at: Literal["confirmed", "finalized"] = Field(
        "confirmed", description="confirmed or finalized: when an order becomes CONFIRMED"
    )
