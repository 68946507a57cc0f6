"""The router's settings, from the environment."""

from pydantic import Field

from engine.settings import (
    Address,
    NatsSettings,
    PeerSettings,
    PostgresDsn,
    RoutingSettings,
    ServingSettings,
)


class Settings(RoutingSettings, NatsSettings, PeerSettings, ServingSettings):
    postgres_dsn: PostgresDsn = Field(description="postgresql://USER@HOST/DATABASE")
    listen_address: Address = Field("127.0.0.1:50052", description="HOST:PORT for health")
    concurrency: int = Field(10, ge=1, le=10_000, description="orders in hand at once, 1–10000")
