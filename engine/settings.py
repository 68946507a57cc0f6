"""What services are told by their environment, and how each value has to look."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from engine.certificates import Files
from engine.errors import StartupError
from engine.limits import Limits
from engine.routing.market import MAX_SHARE_BPS
from engine.routing.paths import INTERMEDIATES, Rules
from engine.token import Tokens


def _address(value: object) -> object:
    host, _, port = str(value).rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError("must be HOST:PORT, for example 127.0.0.1:50051")
    return value


def _addresses(value: object) -> object:
    if not isinstance(value, str):
        return value
    pairs = [item.strip().partition("=") for item in value.split(",") if item.strip()]
    if not pairs or not all(name and address for name, _, address in pairs):
        raise ValueError("must be NAME=HOST:PORT[,NAME=HOST:PORT…]")
    return {name.strip(): _address(address.strip()) for name, _, address in pairs}


def _names(value: object) -> object:
    return (
        tuple(filter(None, value.replace(" ", "").split(","))) if isinstance(value, str) else value
    )


Address = Annotated[str, BeforeValidator(_address)]
Addresses = Annotated[dict[str, str], NoDecode, BeforeValidator(_addresses)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)]


class ServiceSettings(BaseSettings):
    """Read from the environment, once, without prefix; unknown variables are not ours."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True)

    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(str.upper)
    ] = "INFO"
    niceness: int = Field(
        0, ge=0, le=19, description="how far it steps back for others on the machine, 0 to 19"
    )


class ServingSettings(ServiceSettings):
    """What every process that serves can be told of its listener."""

    tls_certificate_file: Path | None = Field(
        None, description="a PEM certificate (chain); with it, the server speaks TLS only"
    )
    tls_key_file: Path | None = Field(None, description="the certificate's PEM key")
    tls_client_ca_file: Path | None = Field(
        None, description="PEM CAs; with it, every client must show a certificate of theirs"
    )

    max_message_bytes: int = Field(
        Limits().max_message_bytes, ge=65_536, description="largest request, at least 65536"
    )
    max_concurrent_streams: int = Field(
        Limits().max_concurrent_streams,
        ge=1,
        description="calls one connection may have under way; more wait in the client",
    )
    max_connection_age_seconds: float = Field(
        Limits().max_connection_age_seconds,
        gt=0,
        le=86_400,
        description="age from which a connection takes no new calls, at most 86400",
    )
    max_connection_age_grace_seconds: float = Field(
        Limits().max_connection_age_grace_seconds,
        gt=0,
        le=86_400,
        description="how long calls of a connection that old may go on, at most 86400",
    )
    keepalive_seconds: float = Field(
        Limits().keepalive_seconds,
        ge=1,
        le=7_200,
        description="silence after which a connection is asked whether it lives, 1 to 7200",
    )

    @property
    def limits(self) -> Limits:
        return Limits(
            self.max_message_bytes,
            self.max_concurrent_streams,
            self.max_connection_age_seconds,
            self.max_connection_age_grace_seconds,
            self.keepalive_seconds,
        )

    @property
    def tls(self) -> Files:
        return Files(self.tls_certificate_file, self.tls_key_file, self.tls_client_ca_file)


class PeerSettings(ServiceSettings):
    """What a process that calls venues or the chain can be told of trust."""

    peer_ca_file: Path | None = Field(
        None, description="PEM CAs that venues' and the chain's certificates must be from"
    )
    peer_certificate_file: Path | None = Field(
        None, description="a PEM certificate to show to venues and the chain"
    )
    peer_key_file: Path | None = Field(None, description="the PEM key of peer_certificate_file")

    @property
    def peer_tls(self) -> Files:
        return Files(self.peer_certificate_file, self.peer_key_file, self.peer_ca_file)


class RoutingSettings(ServiceSettings):
    """How routes are found; for the router, and for the gateway that previews what it would do."""

    venues: Addresses = Field(description="raydium=HOST:PORT,meteora=HOST:PORT")
    quote_timeout_seconds: float = Field(
        2, gt=0, le=20, description="how long all venues together have to quote, at most 20"
    )
    quote_locally: bool = Field(
        True, description="false: ask the venues for every quote, and follow no stream of pools"
    )
    max_slot_lag: int = Field(
        10, ge=0, le=1000, description="slots that a stream of pools may be behind the newest one"
    )
    max_pool_share_bps: int = Field(
        MAX_SHARE_BPS,
        ge=1,
        le=10_000,
        description="what part of the token received a swap may take of a pool, 1 to 10000",
    )
    max_legs: int = Field(
        Rules().max_legs, ge=1, le=4, description="swaps in one transaction, 1 to 4"
    )
    intermediate_tokens: Names = Field(
        tuple(INTERMEDIATES), description="SYMBOL[,SYMBOL…] that a route may pass, or none"
    )
    hop_reserve_bps: int = Field(
        Rules().hop_reserve_bps,
        ge=0,
        le=1000,
        description="what the second swap of a hop leaves of the first one's quote, 0 to 1000",
    )

    def rules(self, tokens: Tokens) -> Rules:
        """What routes may be; raises StartupError for a token that the table does not have."""
        intermediates = [(name, tokens.find(name)) for name in self.intermediate_tokens]
        if unknown := [name for name, token in intermediates if token is None]:
            raise StartupError(
                f"INTERMEDIATE_TOKENS names {', '.join(unknown)}; "
                f"known are {', '.join(token.symbol for token in tokens.all)}"
            )
        return Rules(
            max_legs=self.max_legs,
            intermediates=tuple(token.mint for _, token in intermediates if token is not None),
            hop_reserve_bps=self.hop_reserve_bps,
        )


class NatsSettings(ServiceSettings):
    """Where the queues are, and how to be let in."""

    nats_url: SecretStr = Field(description="nats://HOST:PORT[,nats://HOST:PORT…], or tls://")
    nats_ca_file: Path | None = Field(
        None, description="PEM CAs that the NATS servers' certificates must be from; implies TLS"
    )
    nats_certificate_file: Path | None = Field(
        None, description="a PEM certificate to show to NATS; implies TLS"
    )
    nats_key_file: Path | None = Field(None, description="the PEM key of nats_certificate_file")
    nats_creds_file: Path | None = Field(None, description="a NATS credentials file (.creds)")

    @property
    def nats_tls(self) -> Files:
        return Files(self.nats_certificate_file, self.nats_key_file, self.nats_ca_file)


_HOST: Final = r"(?:[^@/?#:,\[\]]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?"
_DSN: Final = re.compile(
    rf"postgres(?:ql)?://(?:[^@/?#]*@)?{_HOST}(?:,{_HOST})*(?:/[^@?#]*)?(?:\?[^#]*)?"
)


def _dsn(value: SecretStr) -> SecretStr:
    # Read amiss, a part of the password passes for host or port and ends in an error message.
    if not _DSN.fullmatch(value.get_secret_value()):
        raise ValueError("must be a URL, special characters of the password written as %XX")
    return value


PostgresDsn = Annotated[SecretStr, AfterValidator(_dsn)]
