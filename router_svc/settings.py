"""The router's settings, from the environment."""

from pydantic import Field

from engine.runtime import (
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
    listen_address: Address = Field("127.0.0.1:50052", description="HOST:PORT for health")
    concurrency: int = Field(10, ge=1, le=10_000, description="orders in hand at once, 1–10000")
    quote_timeout_seconds: float = Field(
        2, gt=0, le=20, description="how long all venues together have to quote, at most 20"
    )
