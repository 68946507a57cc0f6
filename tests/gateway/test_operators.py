"""What operators do with `oee`, against a real gateway."""

from __future__ import annotations

import asyncio
import json

import pytest
from typer.testing import CliRunner, Result

from oee.__main__ import app
from tests.gateway.running import Gateway


async def oee(gateway: Gateway, *arguments: str, key: str = "") -> Result:
    """What a command did."""
    environment = {"OEE_ADDRESS": gateway.address, "OEE_API_KEY": key}
    # The gateway logs to this process's stdout too: what the command says comes last.
    return await asyncio.to_thread(CliRunner().invoke, app, arguments, env=environment)


def last_line(result: Result) -> str:
    return result.stdout.splitlines()[-1]


async def first_key(gateway: Gateway) -> str:
    """The secret of an operator's key, made while nobody needs one."""
    made = await oee(gateway, "keys", "create", "--account", "house", "--role", "operator")
    assert made.exit_code == 0, made.stderr
    return last_line(made)


async def test_a_key_is_made_used_listed_and_revoked(gateway: Gateway) -> None:
    operator = await first_key(gateway)
    made = await oee(
        gateway,
        *("keys", "create", "--account", "desk", "--role", "viewer", "--note", "screens"),
        key=operator,
    )
    viewer = last_line(made)

    assert (await oee(gateway, "orders", key=viewer)).exit_code == 0
    assert (await oee(gateway, "orders")).exit_code == 2
    submitted = await oee(gateway, "submit", "SOL", "USDC", "1", key=viewer)
    assert (submitted.exit_code, "TRADER" in submitted.stderr) == (2, True)
    listed = await oee(gateway, "keys", "list", key=operator)
    assert all(word in listed.stdout for word in (viewer[4:20], "desk", "viewer", "screens"))
    assert viewer[21:] not in listed.stdout
    revoked = await oee(gateway, "keys", "revoke", viewer[4:20], key=operator)
    assert revoked.exit_code == 0
    assert (await oee(gateway, "orders", key=viewer)).exit_code == 2


async def test_data_for_scripts_is_json(gateway: Gateway) -> None:
    operator = await first_key(gateway)
    listed = await oee(gateway, "keys", "list", "--json", key=operator)
    [key] = json.loads(last_line(listed))["keys"]
    assert (key["account"], key["role"]) == ("house", "ROLE_OPERATOR")


@pytest.mark.parametrize("word", ["", "boss", "unspecified"])
async def test_a_role_that_is_none_is_wrong_usage(gateway: Gateway, word: str) -> None:
    made = await oee(gateway, "keys", "create", "--account", "a", "--role", word)
    assert made.exit_code == 2


async def test_trading_is_stopped_and_resumed(gateway: Gateway) -> None:
    assert "active" in (await oee(gateway, "trading", "show")).stdout
    halted = await oee(gateway, "trading", "halt", "--why", "a venue is drained")
    assert "halted: a venue is drained" in halted.stdout
    refused = await oee(gateway, "submit", "SOL", "USDC", "1")
    assert (refused.exit_code, "a venue is drained" in refused.stderr) == (2, True)
    assert (await oee(gateway, "trading", "halt")).exit_code == 2
    shown = await oee(gateway, "trading", "show", "--json")
    assert json.loads(last_line(shown))["state"] == "TRADING_STATE_HALTED"
    await oee(gateway, "trading", "cancel-only", "--why", "nearly there")
    assert "cancel-only" in (await oee(gateway, "trading", "show")).stdout
    await oee(gateway, "trading", "resume")
    assert (await oee(gateway, "submit", "SOL", "USDC", "1")).exit_code == 0


async def test_limits_that_are_not_set_are_said_to_be_as_the_gateways_settings_are(
    gateway: Gateway,
) -> None:
    shown = await oee(gateway, "limits", "show", "default")
    assert last_line(shown) == (
        "nothing is set: the gateways' settings hold "
        "(ORDERS_PER_MINUTE, MAX_OPEN_ORDERS, MAX_STREAMS)"
    )
    some = await oee(gateway, "limits", "set", "desk", "--max-open-orders", "0")
    assert some.stdout.splitlines()[-2:] == [
        "max_open_orders 0",
        "for the rest the gateways' settings hold (ORDERS_PER_MINUTE, MAX_STREAMS)",
    ]
    counts = ("--orders-per-minute", "5", "--max-streams", "2", "--max-open-orders", "3")
    every = await oee(gateway, "limits", "set", "desk", *counts)
    assert "settings" not in every.stdout


async def test_limits_are_set_and_shown(gateway: Gateway) -> None:
    options = ("--orders-per-minute", "5", "--token", "SOL", "--token", "USDC")
    done = await oee(gateway, "limits", "set", "desk", *options, "--max-amount", "SOL=2.5")
    assert done.exit_code == 0, done.stderr
    shown = await oee(gateway, "limits", "show", "desk", "--json")
    assert json.loads(last_line(shown)) == {
        "orders_per_minute": 5,
        "allowed_tokens": ["SOL", "USDC"],
        "token_limits": [{"token": "SOL", "max_amount_in": "2.5"}],
    }
    wrong = await oee(gateway, "limits", "set", "desk", "--token", "GOLD", "--max-amount", "SOL=x")
    assert wrong.exit_code == 2
    assert all(f in wrong.stderr for f in ("allowed_tokens[0]", "token_limits[0].max_amount_in"))
