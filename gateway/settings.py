"""The gateway's settings, from the environment."""

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
    listen_address: Address = Field("127.0.0.1:50051", description="HOST:PORT for clients")
    quote_timeout_seconds: float = Field(
        2, gt=0, le=20, description="how long all venues together have for a preview, at most 20"
    )
    recheck_seconds: float = Field(
        2, gt=0, le=60, description="how often watched orders are read again, for lost messages"
    )
    max_watches: int = Field(
        10_000, ge=1, description="how many watches this gateway serves at once"
    )
    max_waiting_orders: int = Field(
        2_000, ge=1, description="how many unsigned orders may wait before new ones are refused"
    )
    drain_seconds: float = Field(
        5, ge=0, le=60, description="how long running calls have when the gateway stops"
    )
    workers: int = Field(
        1, ge=1, le=64, description="how many processes share the address, 1 to 64"
    )
    # Set by the supervisor for its workers.
    supervisor_pid: int | None = None
