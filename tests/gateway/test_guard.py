"""Who is let in: keys, roles, revocation; whose orders they reach."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import product, repeat
from typing import Any, Final

import asyncpg
import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from engine.errors import NoOperatorLeft
from engine.lifecycle import Status
from engine.relay import Relay
from engine.store import Store
from engine.v1 import admin_pb2
from engine.v1 import orders_pb2 as pb
from engine.v1.orders_pb2_grpc import OrderServiceStub
from gateway.guard import NEEDED, unsafe_reason
from gateway.keyring import REVOKE, Keyring, Role
from oee.nats import Nats
from tests import builders
from tests.gateway.running import (
    PATIENCE_SECONDS,
    Gateway,
    code,
    eventually,
    reason,
    refusal,
    running,
    swap,
)

SERVICES: Final = [
    pb.DESCRIPTOR.services_by_name["OrderService"],
    admin_pb2.DESCRIPTOR.services_by_name["AdminService"],
]
METHODS: Final = [method for service in SERVICES for method in service.methods]
ABOUT_ORDERS: Final = list(SERVICES[0].methods)


async def key_of(gateway: Gateway, account: str, role: Role = Role.TRADER) -> str:
    """A new key's secret."""
    request = admin_pb2.CreateKeyRequest(account=account, role=admin_pb2.Role.ValueType(role))
    return str((await gateway.admin.CreateKey(request)).secret)


@pytest.fixture
async def operator(gateway: Gateway) -> Gateway:
    """The gateway as an operator calls it; everybody needs a key now."""
    return gateway.called_with(await key_of(gateway, "house", Role.OPERATOR))


async def asked(
    gateway: Gateway,
    method: MethodDescriptor,
    request: Message,
    key: str,
    enough: Callable[[object], bool],
) -> list[Message]:
    """What a call answers until it ends, a status that refuses it included, or until it is enough.

    A stream that goes on without is a failure.
    """
    service = method.containing_service
    assert service is not None
    metadata = (("authorization", f"Bearer {key}"),)
    answers: list[Message] = []
    make: Any = GetMessageClass
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        # One request is one write with its end, whatever the method takes: grpc.aio loses a status
        # that meets a later write (grpc/grpc#36066).
        call: Any = channel.unary_stream(
            f"/{service.full_name}/{method.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=make(method.output_type).FromString,
        )
        call = call(request, metadata=metadata)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                async for answer in call:
                    answers.append(answer)
                    if enough(answer):
                        break
        except grpc.aio.AioRpcError as error:
            answers.append(rpc_status.from_call(error) or status_pb2.Status(message=repr(error)))
        finally:
            call.cancel()
    return answers


# ── keys ──────────────────────────────────────────────────────────────────────────────────────


async def test_while_there_are_no_keys_everybody_is_the_default_account(gateway: Gateway) -> None:
    accepted = await gateway.client.SubmitOrder(swap())
    assert accepted.order.account == "default"


async def test_with_the_first_key_everybody_needs_one_at_once(
    gateway: Gateway, operator: Gateway
) -> None:
    status = await refusal(gateway.client.ListTokens(pb.ListTokensRequest()))
    assert (code(status), reason(status)) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
    assert (await operator.client.ListTokens(pb.ListTokensRequest())).tokens


async def test_health_is_told_to_everybody(gateway: Gateway, operator: Gateway) -> None:
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    "wrong",
    [
        lambda secret: "x",
        lambda secret: "oee_",
        lambda secret: secret[:-1] + ("0" if secret[-1] != "0" else "1"),
        lambda secret: secret.replace(secret[4:20], "0" * 16),
        lambda secret: secret + "0",
        lambda secret: "x" * 5000,
    ],
)
async def test_a_key_that_is_not_one_is_refused_and_never_repeated(
    gateway: Gateway, operator: Gateway, wrong: Any
) -> None:
    key = wrong(await key_of(operator, "desk"))
    status = await refusal(gateway.called_with(key).client.ListTokens(pb.ListTokensRequest()))
    assert (code(status), reason(status)) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
    assert len(key) < 10 or key not in str(status)


async def test_a_key_is_good_the_moment_it_is_made_at_a_gateway_that_was_open(
    dsn: str, nats: Nats, gateway: Gateway
) -> None:
    async with running(dsn, nats.url) as other:
        key = await key_of(gateway, "desk", Role.OPERATOR)
        accepted = await other.called_with(key).client.SubmitOrder(swap())
        assert accepted.order.account == "desk"
        status = await refusal(other.client.SubmitOrder(swap()))
        assert reason(status) == "UNAUTHENTICATED"


async def test_only_a_hash_of_the_secret_is_on_record(dsn: str, operator: Gateway) -> None:
    key = await key_of(operator, "desk")
    connection = await asyncpg.connect(dsn, timeout=10)
    rows = await connection.fetch("SELECT k::text AS row FROM api_keys k")
    await connection.close()
    assert len(rows) == 2
    assert not any(key[21:] in row["row"] for row in rows)


async def test_keys_are_listed_without_secrets_revoked_ones_too(operator: Gateway) -> None:
    keys = [await key_of(operator, account) for account in ("desk", "bot", "desk")]
    await operator.admin.RevokeKey(admin_pb2.RevokeKeyRequest(key_id=keys[0][4:20]))

    request = admin_pb2.ListKeysRequest(page_size=1, account="desk")
    first = await operator.admin.ListKeys(request)
    request.page_token = first.next_page_token
    second = await operator.admin.ListKeys(request)

    listed = [*first.keys, *second.keys]
    assert [key.key_id for key in listed] == [keys[0][4:20], keys[2][4:20]]
    assert [key.HasField("revoke_time") for key in listed] == [True, False]
    assert not second.next_page_token
    everyone = await operator.admin.ListKeys(admin_pb2.ListKeysRequest())
    assert [key.account for key in everyone.keys] == ["house", "desk", "bot", "desk"]
    assert not any(key[21:] in str(everyone) for key in keys)


async def test_what_is_wrong_with_a_new_key_is_told_at_once(operator: Gateway) -> None:
    request = admin_pb2.CreateKeyRequest(account="a b", note="x" * 201)
    status = await refusal(operator.admin.CreateKey(request))
    assert reason(status) == "FIELD_INVALID"
    assert all(field in str(status) for field in ("account", "role", "note"))
    assert "has 201 characters: at most 200" in str(status)
    lines = admin_pb2.CreateKeyRequest(account="a", role=admin_pb2.ROLE_VIEWER, note="two\nlines")
    told = (await refusal(operator.admin.CreateKey(lines))).message
    assert told == r"note: 'two\nlines' must be printable characters, on one line"
    nobody = admin_pb2.RevokeKeyRequest(key_id="0" * 16)
    assert reason(await refusal(operator.admin.RevokeKey(nobody))) == "KEY_NOT_FOUND"


@pytest.mark.parametrize("role", [Role.VIEWER, Role.TRADER])
async def test_the_first_key_is_an_operators_and_nothing_closes_before_it(
    gateway: Gateway, role: Role
) -> None:
    status = await refusal(key_of(gateway, "desk", role))
    assert (code(status), reason(status)) == ("FAILED_PRECONDITION", "NO_OPERATOR_LEFT")
    assert (await gateway.client.SubmitOrder(swap())).order.account == "default"
    operator = gateway.called_with(await key_of(gateway, "house", Role.OPERATOR))
    assert await key_of(operator, "desk", role)


async def test_the_last_operators_key_cannot_be_revoked(gateway: Gateway) -> None:
    first = await key_of(gateway, "house", Role.OPERATOR)
    operator = gateway.called_with(first)
    await key_of(operator, "desk")
    revoke = admin_pb2.RevokeKeyRequest(key_id=first[4:20])

    status = await refusal(operator.admin.RevokeKey(revoke))
    assert (code(status), reason(status)) == ("FAILED_PRECONDITION", "NO_OPERATOR_LEFT")
    assert first[4:20] in status.message
    second = await key_of(operator, "house", Role.OPERATOR)
    revoked = await operator.admin.RevokeKey(revoke)

    other = gateway.called_with(second)
    assert await other.admin.RevokeKey(revoke) == revoked
    last = await refusal(other.admin.RevokeKey(admin_pb2.RevokeKeyRequest(key_id=second[4:20])))
    assert reason(last) == "NO_OPERATOR_LEFT"


async def test_two_operators_do_not_revoke_each_other_at_once(dsn: str, store: Store) -> None:
    keyring = Keyring(store)
    one, other = [(await keyring.create("house", Role.OPERATOR, ""))[0].key_id for _ in range(2)]
    connection = await asyncpg.connect(dsn)
    async with connection.transaction():
        await connection.fetch(REVOKE, one)
        revoking = asyncio.create_task(keyring.revoke(other))

        async def waits_or_is_done() -> bool:
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            await connection.execute("SELECT pg_stat_clear_snapshot()")
            return revoking.done() or bool(await connection.fetchval(waiting))

        await eventually(waits_or_is_done)
    await connection.close()

    with pytest.raises(NoOperatorLeft):
        await revoking


# ── revocation ────────────────────────────────────────────────────────────────────────────────


async def until_sent_away(stream: AsyncIterator[object]) -> None:
    """Return once the stream ends because its caller may not call any more."""

    async def read() -> None:
        async for _ in stream:
            pass

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(read(), PATIENCE_SECONDS)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_revoked_key_is_worthless_and_its_streams_end_at_every_gateway(
    dsn: str, nats: Nats, operator: Gateway
) -> None:
    async with running(dsn, nats.url) as elsewhere:
        key = await key_of(operator, "desk")
        other = elsewhere.called_with(key).client
        order = (await other.SubmitOrder(swap())).order

        async def never() -> AsyncIterator[pb.SubmitOrdersRequest]:
            yield pb.SubmitOrdersRequest(orders=[swap()])
            await asyncio.Event().wait()

        streams = [
            aiter(other.WatchOrder(pb.WatchOrderRequest(order_id=order.order_id))),
            aiter(other.WatchOrders(pb.WatchOrdersRequest(snapshot=True))),
            aiter(other.SubmitOrders(never())),
        ]
        for stream in streams:
            await anext(stream)
        await operator.admin.RevokeKey(admin_pb2.RevokeKeyRequest(key_id=key[4:20]))

        for stream in streams:
            await until_sent_away(stream)
        status = await refusal(other.GetOrder(pb.GetOrderRequest(order_id=order.order_id)))
        assert reason(status) == "UNAUTHENTICATED"
        assert (await operator.client.ListTokens(pb.ListTokensRequest())).tokens


async def test_streams_of_anybody_end_when_everybody_needs_a_key(gateway: Gateway) -> None:
    stream = aiter(gateway.client.WatchOrders(pb.WatchOrdersRequest(snapshot=True)))
    await anext(stream)
    await key_of(gateway, "house", Role.OPERATOR)
    await until_sent_away(stream)


async def test_the_database_may_be_away_while_known_keys_call(
    dsn: str, gateway: Gateway, operator: Gateway
) -> None:
    key = await key_of(operator, "desk")
    called = gateway.called_with(key)
    await called.client.ListTokens(pb.ListTokensRequest())
    connection = await asyncpg.connect(dsn, timeout=10)
    await connection.execute("ALTER TABLE api_keys RENAME TO api_keys_away")
    await connection.close()
    assert (await called.client.ListTokens(pb.ListTokensRequest())).tokens


# ── roles ─────────────────────────────────────────────────────────────────────────────────────


def test_every_method_says_which_role_it_needs() -> None:
    assert set(NEEDED) == {
        f"/{method.containing_service.full_name}/{method.name}"
        for method in METHODS
        if method.containing_service is not None
    }


@pytest.mark.parametrize("role", Role)
async def test_a_role_may_call_what_it_needs_and_nothing_beyond(
    operator: Gateway, role: Role
) -> None:
    key = await key_of(operator, "desk", role)
    refused = set()
    for method in METHODS:
        make: Any = GetMessageClass
        request = make(method.input_type)()
        if isinstance(request, pb.WatchOrdersRequest):
            request.snapshot = True  # it answers at once
        answers = await asked(operator, method, request, key, enough=lambda _: True)
        assert "internal error" not in str(answers)
        if "ROLE_REQUIRED" in str(answers):
            refused.add(method.name)
    assert refused == {name.split("/")[2] for name, needed in NEEDED.items() if needed > role}


@pytest.mark.parametrize("sent", [0, 1, 10_000])
@pytest.mark.parametrize("goes_on", [False, True])
async def test_a_refusal_reaches_who_is_still_writing_and_who_is_done(
    operator: Gateway, sent: int, goes_on: bool
) -> None:
    key = await key_of(operator, "desk", Role.VIEWER)
    refused = threading.Event()

    def writing() -> Iterator[pb.SubmitOrdersRequest]:
        yield from repeat(pb.SubmitOrdersRequest(orders=[swap()]), sent)
        if goes_on:
            refused.wait(PATIENCE_SECONDS)

    def submit() -> grpc.RpcError:
        # Not grpc.aio, see asked().
        with grpc.insecure_channel(operator.address) as channel:
            metadata = (("authorization", f"Bearer {key}"),)
            call = OrderServiceStub(channel).SubmitOrders(
                writing(), metadata=metadata, timeout=PATIENCE_SECONDS
            )
            try:
                with pytest.raises(grpc.RpcError) as caught:
                    list(call)
            finally:
                refused.set()
        return caught.value

    status = rpc_status.from_call(await asyncio.to_thread(submit))
    assert status is not None
    assert (code(status), reason(status)) == ("PERMISSION_DENIED", "ROLE_REQUIRED")
    assert not (await operator.client.ListOrders(pb.ListOrdersRequest())).orders


# ── one account's orders ──────────────────────────────────────────────────────────────────────

# Nothing of an order but what the caller wrote into the request.
VICTIM: Final = "victim"
AMOUNT: Final = "7.654321"
# The caller sees nothing of anybody's orders here.
NO_ORDERS: Final = {"ListTokens", "PreviewOrder"}


def of_the_victim(answer: object) -> bool:
    return VICTIM in str(answer)


def filled(descriptor: Descriptor, order: pb.Order) -> Iterator[Message]:
    """Messages of a type that name the order in every way the type has."""
    values: dict[str, list[Any]] = {}
    for field in descriptor.fields:
        found = list(_values(field, order))
        values[field.name] = found
    make: Any = GetMessageClass(descriptor)
    alternatives = [
        [field.name for field in oneof.fields]
        for oneof in descriptor.oneofs
        if not oneof.name.startswith("_")
    ]
    for chosen in product(*alternatives):
        left_out = {name for names in alternatives for name in names} - set(chosen)
        names = [name for name, found in values.items() if found and name not in left_out]
        for facts in product(*(values[name] for name in names)):
            yield make(**dict(zip(names, facts, strict=True)))


def _values(field: FieldDescriptor, order: pb.Order) -> Iterator[Any]:
    texts = {
        "order_id": order.order_id,
        "client_order_id": order.client_order_id,
        "account": order.account,
        "token_in": "SOL",
        "token_out": "USDC",
        "amount_in": "1",
    }
    if field.name in texts:
        yield texts[field.name]
    elif field.name == "after_sequence":
        yield 0
    elif field.name == "heartbeat_interval":
        return
    elif field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        yield from (False, True)
    elif field.message_type is not None and field.message_type.file.package == "engine.v1":
        for message in filled(field.message_type, order):
            yield [message] if field.is_repeated else message


@pytest.mark.parametrize("method", ABOUT_ORDERS, ids=lambda method: method.name)
async def test_no_rpc_reaches_the_order_of_another_account(
    operator: Gateway, store: Store, relay: Relay, method: MethodDescriptor
) -> None:
    owner, stranger = await key_of(operator, VICTIM), await key_of(operator, "stranger")
    victim = operator.called_with(owner).client
    # While somebody watches something, the gateway remembers what it heard of new orders.
    watched = (await victim.SubmitOrder(swap())).order
    watching = victim.WatchOrder(pb.WatchOrderRequest(order_id=watched.order_id, after_sequence=0))
    await anext(aiter(watching))
    theirs = (await victim.SubmitOrder(swap("victims-key", amount_in=AMOUNT))).order
    found = await store.get_by_client_order_id(VICTIM, "victims-key")
    assert found is not None
    for transition in builders.steps(found, Status.SUBMITTED):
        await relay.commit(transition)
    before = await store.get(found.order_id)
    requests = list(filled(method.input_type, theirs))
    assert requests

    # Streams that are not refused go on until they show an order of the stranger's own. One of the
    # victim's is always before it.
    secrets, shown_to = [VICTIM + '"', AMOUNT, "pool", "signed bytes"], set[str]()
    asking = [
        asyncio.create_task(
            asked(
                operator,
                method,
                request,
                stranger,
                enough=lambda answer: any(order_id in str(answer) for order_id in shown_to),
            )
        )
        for request in requests
    ]
    submitted = 2
    while (await asyncio.wait(asking, timeout=0.05))[1]:
        secrets.append((await victim.SubmitOrder(swap())).order.order_id)
        own = (await operator.called_with(stranger).client.SubmitOrder(swap())).order
        shown_to.add(own.order_id)
        submitted += 1
    seen = [task.result() for task in asking]

    assert not any(word in str(seen) for word in secrets)
    after = await store.get(found.order_id)
    assert before is not None
    assert after is not None
    assert (after.sequence, after.cancel_requested) == (before.sequence, before.cancel_requested)
    assert len(await store.list_orders(VICTIM, limit=1000)) == submitted
    # What is asked for is really there to be seen, by its owner.
    asking = [
        asyncio.create_task(asked(operator, method, request, owner, of_the_victim))
        for request in requests
    ]
    shown = False
    for answered in asyncio.as_completed(asking):
        if shown := of_the_victim(await answered):
            break
    for task in asking:
        task.cancel()
    assert shown is (method.name not in NO_ORDERS)
    watching.cancel()


async def test_an_order_of_another_account_is_told_of_as_one_that_does_not_exist(
    operator: Gateway,
) -> None:
    owner, stranger = await key_of(operator, VICTIM), await key_of(operator, "stranger")
    order = (await operator.called_with(owner).client.SubmitOrder(swap("key"))).order
    theirs = operator.called_with(stranger).client
    for request in (
        pb.GetOrderRequest(order_id=order.order_id),
        pb.GetOrderRequest(client_order_id="key"),
    ):
        status = await refusal(theirs.GetOrder(request))
        assert (code(status), reason(status)) == ("NOT_FOUND", "ORDER_NOT_FOUND")
    # The same key of another account is another order.
    accepted = await theirs.SubmitOrder(swap("key", amount_in="2"))
    assert (accepted.duplicate, accepted.order.account) == (False, "stranger")


# ── exposure ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("address", ["127.0.0.1:50051", "localhost:1", "[::1]:1", "127.9.9.9:1"])
def test_on_loopback_nothing_is_asked_for(address: str) -> None:
    assert (
        unsafe_reason(has_keys=False, has_tls=False, listen_address=address, allow_insecure=False)
        is None
    )


@pytest.mark.parametrize("address", ["0.0.0.0:50051", "[::]:1", "10.0.0.1:1", "gateway:1"])
@pytest.mark.parametrize(("has_keys", "has_tls"), [(False, False), (True, False), (False, True)])
def test_beyond_loopback_both_keys_and_tls_are_asked_for(
    address: str, has_keys: bool, has_tls: bool
) -> None:
    facts = {"has_keys": has_keys, "has_tls": has_tls, "listen_address": address}
    why = unsafe_reason(**facts, allow_insecure=False)  # type: ignore[arg-type]
    assert why is not None
    assert ("API keys" in why, "TLS" in why) == (not has_keys, not has_tls)
    assert unsafe_reason(**facts, allow_insecure=True) is None  # type: ignore[arg-type]
    assert (
        unsafe_reason(has_keys=True, has_tls=True, listen_address=address, allow_insecure=False)
        is None
    )


async def test_a_gateway_that_would_be_unsafe_does_not_start(dsn: str, nats: Nats) -> None:
    settings = {
        "POSTGRES_DSN": dsn,
        "NATS_URL": nats.url,
        "VENUES": "raydium=127.0.0.1:1",
        "LISTEN_ADDRESS": "0.0.0.0:0",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway"),
        env=os.environ | settings,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    assert process.returncode == 2
    assert b"ALLOW_INSECURE" in said


# ── the first key ─────────────────────────────────────────────────────────────────────────────


async def test_the_first_key_is_made_at_the_database(dsn: str, nats: Nats) -> None:
    async with running(dsn, nats.url) as gateway:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway.keys", "create"),
            *("--account", "house", "--role", "operator"),
            env=os.environ | {"POSTGRES_DSN": dsn},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        told, logged = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
        assert process.returncode == 0, logged
        secret = told.decode().strip()
        assert secret[21:] not in logged.decode()
        assert (await gateway.called_with(secret).admin.ListKeys(admin_pb2.ListKeysRequest())).keys

        async def closed() -> bool:
            try:
                await gateway.client.ListTokens(pb.ListTokensRequest())
            except grpc.aio.AioRpcError as error:
                return error.code() is grpc.StatusCode.UNAUTHENTICATED
            return False

        await eventually(closed)
