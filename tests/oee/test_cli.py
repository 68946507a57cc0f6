"""The commands, against a channel on which the test plays the engine."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import grpc
import grpc_testing
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from grpc_status import rpc_status
from typer.testing import CliRunner, Result

from engine import errors
from engine.answers import to_status
from engine.v1 import orders_pb2 as pb
from oee.__main__ import app

SERVICE = pb.DESCRIPTOR.services_by_name["OrderService"]
ORDER_ID = "0199c0de-0000-7000-8000-000000000001"
SWAP = ("submit", "SOL", "USDC", "1.5")
WAIT_SECONDS = 10


class Engine:
    """Expects calls in the order they were told to it, and answers each as it was told."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self._channel = grpc_testing.channel([SERVICE], grpc_testing.strict_real_time())
        self._steps: list[Callable[[], None]] = []

    def answers(self, method: str, response: Message) -> Engine:
        """Then a unary call is answered."""

        def step() -> None:
            _, request, call = self._channel.take_unary_unary(SERVICE.methods_by_name[method])
            # The very object of the caller, who may go on to change it.
            self.requests.append(type(request).FromString(request.SerializeToString()))
            call.terminate(response, (), grpc.StatusCode.OK, "")

        self._steps.append(step)
        return self

    def refuses(self, method: str, error: errors.RequestError) -> Engine:
        """Then a unary call is refused, in the engine's own way."""
        status = rpc_status.to_status(to_status(error))

        def step() -> None:
            _, request, call = self._channel.take_unary_unary(SERVICE.methods_by_name[method])
            self.requests.append(request)
            call.terminate(None, status.trailing_metadata, status.code, status.details)

        self._steps.append(step)
        return self

    def streams(self, *responses: pb.WatchOrderResponse) -> Engine:
        """Then a watch is served to its end."""
        method = SERVICE.methods_by_name["WatchOrder"]

        def step() -> None:
            _, request, call = self._channel.take_unary_stream(method)
            self.requests.append(request)
            for response in responses:
                call.send_response(response)
            call.terminate((), grpc.StatusCode.OK, "")

        self._steps.append(step)
        return self

    def serve(self, *arguments: str) -> Result:
        """Run a command against all this; every call must have been made."""
        serving = threading.Thread(target=lambda: [step() for step in self._steps], daemon=True)
        serving.start()
        result = CliRunner().invoke(app, arguments, obj=lambda address: self._channel)
        serving.join(WAIT_SECONDS)
        assert not serving.is_alive(), f"a call was not made; stderr: {result.stderr}"
        return result


def event(sequence: int, status: pb.OrderStatus.ValueType) -> pb.WatchOrderResponse:
    return pb.WatchOrderResponse(
        event=pb.OrderEvent(order_id=ORDER_ID, sequence=sequence, status=status)
    )


def accepting() -> Engine:
    return Engine().answers(
        "SubmitOrder", pb.SubmitOrderResponse(order=pb.Order(order_id=ORDER_ID))
    )


def test_submit_carries_a_key_and_tells_it() -> None:
    engine = accepting()
    result = engine.serve(*SWAP)
    [request] = engine.requests

    assert request.client_order_id
    assert request.client_order_id in result.stderr
    assert ORDER_ID in result.stdout
    assert result.exit_code == 0


def test_the_key_is_told_even_when_no_answer_comes() -> None:
    engine = Engine().refuses("SubmitOrder", errors.StoreUnavailable("the database is away"))
    result = engine.serve(*SWAP)
    [request] = engine.requests

    assert request.client_order_id in result.stderr
    assert "may have been accepted" in result.stderr
    assert result.exit_code == 3


def test_a_key_of_ours_is_never_mistaken_for_an_order_id() -> None:
    engine = accepting()
    engine.serve(*SWAP)

    with pytest.raises(ValueError, match="UUID"):
        UUID(engine.requests[0].client_order_id)


def test_every_intent_gets_a_key_of_its_own() -> None:
    one, other = accepting(), accepting()
    one.serve(*SWAP)
    other.serve(*SWAP)

    assert one.requests[0].client_order_id != other.requests[0].client_order_id


def test_submit_sends_what_it_was_told() -> None:
    engine = accepting()
    engine.serve(
        *(*SWAP, "--slippage-bps", "50", "--client-order-id", "desk:7"),
        *("--venue", "raydium", "--venue", "meteora", "--expire-in", "1h30m"),
    )
    [request] = engine.requests

    assert (request.token_in, request.token_out, request.amount_in) == ("SOL", "USDC", "1.5")
    assert request.client_order_id == "desk:7"
    assert request.slippage_bps == 50
    assert request.venues == ["raydium", "meteora"]
    assert request.HasField("expire_time")


def test_what_was_not_said_is_left_to_the_engine() -> None:
    engine = accepting()
    engine.serve(*SWAP)
    [request] = engine.requests

    assert not request.HasField("slippage_bps")
    assert not request.HasField("expire_time")
    assert not request.min_amount_out
    assert not request.venues


def test_every_violation_is_one_line_on_stderr_and_the_exit_code_is_2() -> None:
    engine = Engine().refuses(
        "SubmitOrder",
        errors.InvalidRequest(
            [
                errors.Violation("token_out", "XYZ is not a known token"),
                errors.Violation("amount_in", "must be more than zero"),
            ]
        ),
    )
    result = engine.serve("submit", "SOL", "XYZ", "0")

    assert "\n  token_out: XYZ is not a known token\n" in result.stderr
    assert "\n  amount_in: must be more than zero\n" in result.stderr
    assert result.stdout == ""
    assert result.exit_code == 2


def test_a_preview_without_a_route_says_what_each_venue_answered() -> None:
    engine = Engine().refuses("PreviewOrder", errors.NoRoute("no venue can", raydium="no pool"))
    result = engine.serve("preview", "SOL", "USDC", "1.5")

    assert result.stderr == "FAILED_PRECONDITION: no venue can\n  raydium: no pool\n"
    assert result.exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "method"),
    [(["order", "nobody"], "GetOrder"), (["cancel", "nobody"], "CancelOrder")],
)
def test_an_unknown_order_exits_4(arguments: list[str], method: str) -> None:
    unknown = errors.OrderNotFound("there is no order nobody", order_id="nobody")
    result = Engine().refuses(method, unknown).serve(*arguments)

    assert result.stderr == "NOT_FOUND: there is no order nobody\n"
    assert result.exit_code == 4


def test_a_uuid_names_an_order_id_and_anything_else_a_client_order_id() -> None:
    by_id = Engine().answers("CancelOrder", pb.CancelOrderResponse())
    by_key = Engine().answers("CancelOrder", pb.CancelOrderResponse())
    by_id.serve("cancel", ORDER_ID.upper())
    by_key.serve("cancel", "desk:7")

    assert by_id.requests == [pb.CancelOrderRequest(order_id=ORDER_ID)]
    assert by_key.requests == [pb.CancelOrderRequest(client_order_id="desk:7")]


@pytest.mark.parametrize(
    ("status", "exit_code"),
    [
        (pb.ORDER_STATUS_CONFIRMED, 0),
        (pb.ORDER_STATUS_FAILED, 1),
        (pb.ORDER_STATUS_CANCELLED, 1),
        (pb.ORDER_STATUS_EXPIRED, 1),
    ],
)
def test_a_watch_exits_with_what_became_of_the_order(
    status: pb.OrderStatus.ValueType, exit_code: int
) -> None:
    engine = Engine().streams(event(1, pb.ORDER_STATUS_PENDING), event(2, status))

    assert engine.serve("watch", ORDER_ID).exit_code == exit_code


def test_a_watch_that_starts_after_the_end_still_knows_what_became_of_the_order() -> None:
    ended = pb.GetOrderResponse(order=pb.Order(status=pb.ORDER_STATUS_CONFIRMED))
    engine = Engine().streams().answers("GetOrder", ended)
    result = engine.serve("watch", ORDER_ID, "--after", "9")

    assert engine.requests[0].after_sequence == 9
    assert result.exit_code == 0


def test_an_event_that_comes_twice_is_shown_once() -> None:
    engine = Engine().streams(
        event(1, pb.ORDER_STATUS_PENDING),
        event(1, pb.ORDER_STATUS_PENDING),
        event(2, pb.ORDER_STATUS_CONFIRMED),
    )
    lines = engine.serve("watch", ORDER_ID, "--json").stdout.splitlines()

    assert [json.loads(line)["sequence"] for line in lines] == ["1", "2"]


def test_submit_and_watch_prints_the_answer_then_every_event() -> None:
    engine = accepting().streams(
        event(1, pb.ORDER_STATUS_PENDING), event(2, pb.ORDER_STATUS_FAILED)
    )
    result = engine.serve(*SWAP, "--watch", "--json")
    answer, *events = map(json.loads, result.stdout.splitlines())

    assert engine.requests[1].order_id == ORDER_ID
    assert answer["order"]["order_id"] == ORDER_ID
    assert [item["status"] for item in events] == ["ORDER_STATUS_PENDING", "ORDER_STATUS_FAILED"]
    assert result.exit_code == 1


def test_a_cancel_that_comes_too_late_exits_1() -> None:
    too_late = pb.CancelOrderResponse(outcome=pb.CANCEL_OUTCOME_TOO_LATE)
    result = Engine().answers("CancelOrder", too_late).serve("cancel", ORDER_ID)

    assert "too late" in result.stdout
    assert result.exit_code == 1


def test_a_list_goes_through_the_pages_and_stops_at_its_limit() -> None:
    page = [pb.Order(order_id=ORDER_ID)] * 2
    engine = (
        Engine()
        .answers("ListOrders", pb.ListOrdersResponse(orders=page, next_page_token="second"))
        .answers("ListOrders", pb.ListOrdersResponse(orders=page, next_page_token="third"))
    )
    result = engine.serve("orders", "--limit", "3", "--status", "failed", "--json")

    assert [request.page_token for request in engine.requests] == ["", "second"]
    assert engine.requests[1].statuses == [pb.ORDER_STATUS_FAILED]
    assert len(json.loads(result.stdout)["orders"]) == 3


@pytest.mark.parametrize(
    ("arguments", "calls", "keys"),
    [
        (
            ["order", ORDER_ID],
            {"GetOrder": pb.GetOrderResponse(), "ListOrderEvents": pb.ListOrderEventsResponse()},
            {"order", "events"},
        ),
        (
            ["explain", ORDER_ID],
            {"ExplainOrder": pb.ExplainOrderResponse(summary="Confirmed.")},
            {"summary", "routes", "attempts", "stages"},
        ),
        (["orders"], {"ListOrders": pb.ListOrdersResponse()}, {"orders"}),
        (["tokens"], {"ListTokens": pb.ListTokensResponse()}, {"tokens"}),
        (
            ["preview", "SOL", "USDC", "1"],
            {"PreviewOrder": pb.PreviewOrderResponse(route=pb.RouteDecision(why="best"))},
            {"route", "curve"},
        ),
        (["cancel", ORDER_ID], {"CancelOrder": pb.CancelOrderResponse()}, {"outcome"}),
        ([*SWAP], {"SubmitOrder": pb.SubmitOrderResponse(duplicate=True)}, {"duplicate"}),
    ],
)
def test_json_is_one_object_with_the_names_of_the_api(
    arguments: list[str], calls: dict[str, Message], keys: set[str]
) -> None:
    engine = Engine()
    for method, response in calls.items():
        engine.answers(method, response)
    result = engine.serve(*arguments, "--json")

    assert json.loads(result.stdout).keys() == keys
    assert result.stdout.count("\n") == 1
    assert result.exit_code == 0


COMMANDS = [
    *("submit", "watch", "orders", "order", "preview", "tokens", "cancel"),
    *("up", "demo", "reconcile"),
]


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)])
def test_help_states_the_exit_codes(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, [*arguments, "--help"])

    assert "Exit codes" in result.stdout
    assert result.exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["submit", "SOL", "USDC"],
        ["submit", "SOL", "USDC", "1", "--expire-in", "soon"],
        ["orders", "--status", "resting"],
        ["orders", "--limit", "0"],
        ["reconcile"],
        ["trade"],
    ],
)
def test_wrong_usage_exits_2_before_anything_is_asked(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)

    assert result.stdout == ""
    assert result.exit_code == 2


@pytest.fixture
def silent_address() -> Iterator[str]:
    """Where nobody answers: bound, so that nobody else takes it, and not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.mark.parametrize("arguments", [["tokens"], ["watch", ORDER_ID]])
def test_an_engine_that_is_not_there_exits_3_and_is_named(
    arguments: list[str], silent_address: str
) -> None:
    result = CliRunner().invoke(app, ["--address", silent_address, "--timeout", "0.4", *arguments])

    assert f"no answer from {silent_address}" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.exit_code == 3


def test_an_explanation_begins_with_its_sentence_and_shows_what_is_behind_it() -> None:
    told = pb.ExplainOrderResponse(summary="Confirmed on meteora.")
    quotes = [pb.VenueQuote(venue="meteora", amount_out="151"), pb.VenueQuote(venue="raydium")]
    told.routes.add(decision=pb.RouteDecision(quotes=quotes, venue="meteora", why="it pays most"))
    legs = [pb.RouteLeg(venue="meteora", token_in="SOL", token_out="USDC", amount_in="1")]
    told.attempts.add(
        outcome="Swapped in slot 7.",
        attempt=pb.Attempt(number=1, venue="meteora", legs=legs),
        fill=pb.Fill(leftovers=[pb.Leftover(token="USDT", amount="0.004")]),
    )
    told.stages.add(status=pb.ORDER_STATUS_PENDING).duration.FromMilliseconds(1500)
    result = Engine().answers("ExplainOrder", told).serve("explain", "key-1")

    first, *rest = result.stdout.splitlines()
    assert first == "Confirmed on meteora."
    shown = "\n".join(rest)
    for words in ("it pays most", "151", "Swapped in slot 7.", "SOL ─▶ USDC", "0.004 USDT", "1.5"):
        assert words in shown, words


def previewed() -> pb.PreviewOrderResponse:
    """raydium takes most of 1500 SOL, meteora the rest."""
    legs = [
        pb.RouteLeg(venue=venue, token_in="SOL", token_out="USDC", amount_in=amount_in)
        for venue, amount_in in (("raydium", "1200"), ("meteora", "300"))
    ]
    route = pb.RouteDecision(venue="raydium+meteora", why="a split pays most", legs=legs)
    for net, taken in (("224000", legs), ("223888", legs[:1])):
        route.candidates.add(legs=taken, net_amount_out=net)
    answer = pb.PreviewOrderResponse(route=route)
    for amount_in, impact in (("15", "0"), ("1500", "24.9"), ("150000", "1800")):
        answer.curve.add(amount_in=amount_in, price_impact_bps=impact)
    return answer


def test_a_preview_draws_the_split_the_ways_not_taken_and_the_curve() -> None:
    engine = Engine().answers("PreviewOrder", previewed())
    result = engine.serve("preview", "SOL", "USDC", "1500")

    shown = result.stdout
    for told in ("80 %", "20 %", "5.00", "a split pays most", "▲ 1500 SOL, 24.9 bps"):
        assert told in shown, told
    assert "\x1b" not in shown
    assert result.exit_code == 0


def test_the_json_of_a_preview_has_everything_that_is_drawn() -> None:
    engine = Engine().answers("PreviewOrder", previewed())
    told = json.loads(engine.serve("preview", "SOL", "USDC", "1500", "--json").stdout)

    assert json_format.ParseDict(told, pb.PreviewOrderResponse()) == previewed()


@pytest.mark.parametrize("command", [["up"], ["demo"], ["reconcile", "--restored"]])
def test_without_what_runs_a_stack_its_commands_say_in_a_line_what_to_install(
    command: list[str],
) -> None:
    without = "import sys; sys.modules['psutil'] = None; from oee.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", without, *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "psutil is not installed, which it takes to run the stack: "
        "pip install '.[embedded]' where its pyproject.toml is\n"
    )
