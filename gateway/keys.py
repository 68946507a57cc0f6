"""Makes the first API key, when nobody may ask the gateway for one: `python -m gateway.keys`.

Prints the secret, once, on a line of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from functools import partial

from pydantic import Field

from engine import runtime
from engine.errors import NoOperatorLeft, StartupError, StoreUnavailable
from engine.settings import PostgresDsn, ServiceSettings
from engine.store import open_store
from gateway.keyring import ACCOUNT, MAX_NOTE_CHARACTERS, Keyring, Role


class Settings(ServiceSettings):
    postgres_dsn: PostgresDsn = Field(description="postgresql://USER@HOST/DATABASE")


async def run(arguments: argparse.Namespace, settings: Settings, stop: asyncio.Event) -> None:
    async with open_store(settings.postgres_dsn.get_secret_value()) as store:
        try:
            _, secret = await Keyring(store).create(
                arguments.account, Role[arguments.role.upper()], arguments.note
            )
        except (NoOperatorLeft, StoreUnavailable) as error:
            raise StartupError(str(error)) from None
    sys.stdout.write(f"{secret}\n")


def _account(text: str) -> str:
    if not ACCOUNT.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} must be 1 to 64 of [A-Za-z0-9_.:-]")
    return text


def _note(text: str) -> str:
    if len(text) > MAX_NOTE_CHARACTERS:
        raise argparse.ArgumentTypeError(
            f"has {len(text)} characters: at most {MAX_NOTE_CHARACTERS}"
        )
    if not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} must be printable characters, on one line")
    return text


def _arguments() -> argparse.Namespace:
    parser = runtime.arguments(Settings)
    create = parser.add_subparsers(required=True).add_parser("create", help="make a key")
    create.add_argument("--account", type=_account, required=True, help="whose orders it is for")
    roles = [role.name.lower() for role in Role]
    create.add_argument("--role", choices=roles, required=True, help="what its holder may do")
    create.add_argument("--note", type=_note, default="", help="what it is for")
    return parser.parse_args()


if __name__ == "__main__":
    runtime.main("keys", Settings, partial(run, _arguments()), takes_arguments=True)
