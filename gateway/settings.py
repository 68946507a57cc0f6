"""The gateway's settings, from the environment."""

from pydantic import Field

from engine.allowance import MAX_ORDERS_PER_MINUTE
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
    listen_address: Address = Field("127.0.0.1:50051", description="HOST:PORT for clients")
    allow_insecure: bool = Field(
        False, description="true: listen beyond loopback even without API keys and TLS"
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
    orders_per_minute: int = Field(
        100,
        ge=0,
        le=MAX_ORDERS_PER_MINUTE,
        description="how many orders an account may place a minute, and at once; 0: any number",
    )
    max_open_orders: int = Field(
        0, ge=0, description="how many orders that are not settled an account may have; 0: any"
    )
    max_streams: int = Field(
        1_000, ge=0, description="how many streams an account may have open here; 0: any number"
    )
    routes_per_second: float = Field(
        100,
        ge=0,
        description="how many routes an account may have chosen here for no order: validate_only "
        "takes one, a preview ten; 0: any number",
    )
    drain_seconds: float = Field(
        5, ge=0, le=60, description="how long running calls have when the gateway stops"
    )
    workers: int = Field(
        1, ge=1, le=64, description="how many processes share the address, 1 to 64"
    )
    # Set by the supervisor for its workers.
    supervisor_pid: int | None = None
