"""Writes what is generated of the documentation: docs/api.md, and the tables of README."""

from __future__ import annotations

import inspect
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from google.protobuf import descriptor_pb2 as d
from grpc_tools import protoc

from engine.answers import ANSWERS
from engine.errors import Reason
from engine.failures import FAILURES
from engine.v1 import chain_pb2, venue_pb2

PROTOS: Final = Path(__file__).parent
ROOT: Final = PROTOS.parent
SCALARS: Final = {
    kind: d.FieldDescriptorProto.Type.Name(kind).removeprefix("TYPE_").lower()
    for kind in d.FieldDescriptorProto.Type.values()
}


@dataclass(frozen=True)
class Element:
    """Anything a proto declares: what kind, its full name, its comment and its descriptor."""

    kind: str
    name: str
    comment: str
    file: d.FileDescriptorProto
    declared: object


def compiled() -> list[d.FileDescriptorProto]:
    """Our own protos with their comments, by name."""
    names = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.glob("engine/v1/*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "image")
        includes = [f"-I{PROTOS}", f"-I{files('grpc_tools') / '_proto'}"]
        code = protoc.main(
            ["protoc", *includes, "--include_source_info", f"--descriptor_set_out={image}", *names]
        )
        if code:
            raise SystemExit(code)
        return list(d.FileDescriptorSet.FromString(image.read_bytes()).file)


def elements(file: d.FileDescriptorProto) -> Iterator[Element]:
    """Every service, method, message, field, enum and value, as they are declared."""
    comments = {
        tuple(location.path): (location.leading_comments or location.trailing_comments).strip()
        for location in file.source_code_info.location
    }

    def found(kind: str, path: tuple[int, ...], scope: str, declared: object) -> Element:
        name = f"{scope}.{declared.name}"  # type: ignore[attr-defined]
        return Element(kind, name, comments.get(path, ""), file, declared)

    def enum(path: tuple[int, ...], scope: str, kind: d.EnumDescriptorProto) -> Iterator[Element]:
        yield found("enum", path, scope, kind)
        for i, value in enumerate(kind.value):
            yield found("value", (*path, 2, i), f"{scope}.{kind.name}", value)

    def message(path: tuple[int, ...], scope: str, kind: d.DescriptorProto) -> Iterator[Element]:
        yield found("message", path, scope, kind)
        inside = f"{scope}.{kind.name}"
        for i, field in enumerate(kind.field):
            yield found("field", (*path, 2, i), inside, field)
        for i, nested in enumerate(kind.nested_type):
            if not nested.options.map_entry:
                yield from message((*path, 3, i), inside, nested)
        for i, nested_enum in enumerate(kind.enum_type):
            yield from enum((*path, 4, i), inside, nested_enum)

    for i, service in enumerate(file.service):
        yield found("service", (6, i), file.package, service)
        for j, method in enumerate(service.method):
            yield found("method", (6, i, 2, j), f"{file.package}.{service.name}", method)
    for i, top in enumerate(file.message_type):
        yield from message((4, i), file.package, top)
    for i, top_enum in enumerate(file.enum_type):
        yield from enum((5, i), file.package, top_enum)


def api_page(protos: Sequence[d.FileDescriptorProto]) -> str:
    """The reference of everything on the wire, as Markdown."""
    lines = [
        "# The wire, field by field",
        "",
        "Written by `make docs` from the comments in `protos/`. Clients need `orders.proto`,",
        "operators `admin.proto` too; `venue.proto` and `chain.proto` are for who brings a venue",
        "or a chain, `sim.proto` for rehearsals.",
    ]
    for file in protos:
        lines += ["", f"## {file.name}"]
        table = ""
        for element in elements(file):
            short = element.name.removeprefix(f"{file.package}.")
            text = " ".join(element.comment.split()).replace("|", "\\|")
            if element.kind in ("service", "message", "enum"):
                lines += ["", f"### {short}", "", text]
                table = ""
                continue
            columns, row = _row(element, text)
            if table != columns:
                table = columns
                lines += ["", columns, "|" + "---|" * columns.count(" | ") + "---|"]
            lines.append(row)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _row(element: Element, text: str) -> tuple[str, str]:
    declared = element.declared
    match declared:
        case d.MethodDescriptorProto():
            asked = "stream " * declared.client_streaming + _link(declared.input_type)
            answered = "stream " * declared.server_streaming + _link(declared.output_type)
            row = f"| `{declared.name}` | {asked} | {answered} | {text} |"
            return "| method | request | response | |", row
        case d.FieldDescriptorProto():
            row = f"| `{declared.name}` | {declared.number} | {_type(element, declared)} | {text} |"
            return "| field | number | type | |", row
        case d.EnumValueDescriptorProto():
            return "| value | number | |", f"| `{declared.name}` | {declared.number} | {text} |"
    raise AssertionError(element)


def _type(element: Element, field: d.FieldDescriptorProto) -> str:
    name = _link(field.type_name) if field.type_name else SCALARS[field.type]
    if "Entry" in field.type_name and field.label == field.LABEL_REPEATED:
        return "map of string to string"
    if field.label == field.LABEL_REPEATED:
        return f"repeated {name}"
    if field.proto3_optional:
        return f"optional {name}"
    return name


def _link(type_name: str) -> str:
    name = type_name.lstrip(".")
    short = name.removeprefix("engine.v1.")
    if short == name:
        return name
    return f"[{short}](#{short.lower().replace('.', '')})"


def error_table() -> str:
    """README's table of the errors of calls."""
    rows = [
        (_first_words(inspect.getdoc(kind) or ""), answer.code.name, kind.reason)
        for kind, answer in ANSWERS.items()
    ]
    rows.append(("The engine's own fault; its log has it", "INTERNAL", Reason.INTERNAL))
    return _table("| situation | code | reason |", rows)


def failure_table() -> str:
    """README's table of the reasons why an accepted order failed."""
    protos = {file.name: file for file in compiled()}
    rows = list(FAILURES.items())
    told = set(FAILURES)
    for module, name in ((venue_pb2, "RefusalReason"), (chain_pb2, "TransactionErrorReason")):
        kind = module.DESCRIPTOR.enum_types_by_name[name]
        comments = {
            element.name.rpartition(".")[2]: element.comment
            for element in elements(protos[module.DESCRIPTOR.name])
            if element.kind == "value"
        }
        prefix = re.sub(r"(?<!^)([A-Z])", r"_\1", name).upper() + "_"
        for value in kind.values:
            reason = value.name.removeprefix(prefix)
            if value.number and reason not in told:
                told.add(reason)
                words = _first_words(" ".join(comments[value.name].split()))
                rows.append((reason, words))
    return _table("| `Order.error.reason` | meaning |", [(f"{a}", b) for a, b in rows])


def _first_words(text: str) -> str:
    return re.split(r"[.;](?:\s|$)", text.partition("\n")[0])[0]


def _table(header: str, rows: Sequence[Sequence[str]]) -> str:
    rule = "|" + "---|" * (header.count("|") - 1)
    return "\n".join([header, rule, *(f"| {' | '.join(row)} |" for row in rows)])


def readme(text: str) -> str:
    """README with its tables as they should be."""
    for name, table in (("errors", error_table()), ("failures", failure_table())):
        begin, end = f"<!-- {name}: written by make docs -->", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{table}\n{end}{after}"
    return text


def main() -> None:
    """Write the pages."""
    (ROOT / "docs" / "api.md").write_text(api_page(compiled()))
    page = ROOT / "README.md"
    page.write_text(readme(page.read_text()))


if __name__ == "__main__":
    main()
