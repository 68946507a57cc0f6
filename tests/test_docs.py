"""What is said about the wire and its errors is complete, and is what the code does."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from engine import answers, errors
from engine.failures import FAILURES
from protos import document
from tests.test_packaging import PROGRAMS, ROOT

SERVICES = ("engine", "gateway", "router_svc", "executor_svc")
# What is wrong comes first; then, after one of these, what would be right.
REMEDY = re.compile(r"[:;] \w|\bmust ")


def calls() -> Iterator[tuple[Path, str, ast.Call]]:
    """Every call in the services' code, by the last part of the name that is called."""
    for package in SERVICES:
        for file in sorted((ROOT / package).rglob("*.py")):
            if "v1" in file.parts:
                continue
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call):
                    name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
                    yield file, name if isinstance(name, str) else ast.unparse(name), node


def words(node: ast.expr) -> str | None:
    """The text of a literal, with a word for everything that is put into it; None: no literal."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(words(part) or "value" for part in node.values)
    return None


def test_the_pages_are_those_that_make_docs_writes() -> None:
    text = (ROOT / "README.md").read_text()

    assert text == document.readme(text)
    assert (ROOT / "docs" / "api.md").read_text() == document.api_page(document.compiled())


def test_every_error_is_in_the_table_under_a_reason_of_its_own() -> None:
    kinds = errors.RequestError.__subclasses__()
    reasons = [kind.reason for kind in kinds]

    assert set(kinds) == set(answers.ANSWERS)
    # A reason that no error has would be documented by nobody.
    assert sorted([*reasons, errors.Reason.INTERNAL]) == sorted(errors.Reason)
    assert all(reason.name == reason == reason.upper() for reason in errors.Reason)
    table = document.error_table()
    assert all(
        f"| {answer.code.name} | {kind.reason} |" in table
        for kind, answer in answers.ANSWERS.items()
    )


def test_every_message_of_an_error_says_what_would_be_right() -> None:
    kinds = {kind.__name__ for kind in errors.RequestError.__subclasses__()}
    texts = {}
    for file, name, call in calls():
        if name in kinds | {"Violation", "wrong"} and call.args:
            text = words(call.args[-1])
            if text is not None:
                texts[f"{file.name}:{call.lineno}"] = text

    assert len(texts) > 20
    assert {at: text for at, text in texts.items() if not REMEDY.search(text)} == {}


def test_every_reason_why_an_order_fails_is_in_the_table() -> None:
    given = {
        str(call.args[0].value)
        for _, name, call in calls()
        if name in ("Failure", "Refused") and call.args and isinstance(call.args[0], ast.Constant)
    }

    assert len(given) > 5
    assert given <= FAILURES.keys()


@pytest.mark.parametrize("file", document.compiled(), ids=lambda file: file.name)
def test_everything_on_the_wire_is_explained(file: FileDescriptorProto) -> None:
    found = list(document.elements(file))

    assert len(found) > 10
    assert [element.name for element in found if not element.comment] == []


def test_the_wire_breaks_nothing_that_was_released() -> None:
    ended = subprocess.run(
        [PROGRAMS / "buf", "breaking", "--against", "released.binpb"],
        cwd=ROOT / "protos",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (ended.returncode, ended.stdout) == (0, "")
