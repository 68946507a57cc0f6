"""What is committed beside the code agrees with it: compose file, locks, generated modules."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from pydantic_settings import BaseSettings

from protos.generate import generate

ROOT = Path(__file__).parent.parent
PROGRAMS = Path(sys.executable).parent
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SETTINGS = {
    "gateway": "gateway.settings",
    "router": "router_svc.settings",
    "executor": "executor_svc.settings",
    "dex_sim": "dex_sim.settings",
    "migrate": "engine.migrate",
}
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKED = {
    "requirements.lock": PROJECT["project"]["dependencies"],
    "requirements-embedded.lock": PROJECT["project"]["dependencies"]
    + PROJECT["project"]["optional-dependencies"]["embedded"],
    "requirements-dev.lock": PROJECT["project"]["dependencies"]
    + PROJECT["project"]["optional-dependencies"]["embedded"]
    + PROJECT["dependency-groups"]["dev"],
    "examples/python/requirements.lock": PROJECT["dependency-groups"]["examples"],
}
# A pin, its marker, and its hashes on the lines that follow.
PIN = re.compile(
    r"^([a-z0-9-]+)==(\S+)[^\n]*\\\n((?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.M
)


def settings_of(name: str) -> type[BaseSettings]:
    settings: type[BaseSettings] = importlib.import_module(SETTINGS[name]).Settings
    return settings


def pins(lock: str) -> dict[str, str]:
    return {name: version for name, version, _ in PIN.findall((ROOT / lock).read_text())}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_compose_file_is_valid_by_the_published_schema() -> None:
    schema = json.loads((ROOT / "tests" / "data" / "compose-spec.json").read_text())

    jsonschema.validate(COMPOSE, schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_variable_that_compose_sets_is_a_setting_of_that_service(name: str) -> None:
    known = {field.upper() for field in settings_of(name).model_fields}

    assert SERVICES[name]["environment"].keys() <= known


@pytest.mark.parametrize("name", SETTINGS)
def test_a_service_accepts_the_environment_that_compose_gives_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in SERVICES[name]["environment"].items():
        monkeypatch.setenv(variable, value)

    settings_of(name)()


def test_every_service_of_ours_runs_a_module_that_the_image_has() -> None:
    copied = (ROOT / ".dockerignore").read_text().splitlines()
    for service in OURS.values():
        module = service["command"][0]

        assert f"!{module.partition('.')[0]}" in copied
        assert find_spec(module) is not None


def test_every_service_that_stays_says_when_it_is_healthy() -> None:
    once = {"migrate", "wallet"}

    assert {name for name, service in SERVICES.items() if "healthcheck" not in service} == once


def test_what_scales_has_neither_a_name_nor_a_port_of_its_own() -> None:
    assert all("container_name" not in service for service in SERVICES.values())
    assert SERVICES["gateway"]["ports"] == ["127.0.0.1:50051-50060:50051"]
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["gateway"]


@pytest.mark.parametrize("lock", LOCKED)
def test_a_lock_pins_every_direct_dependency_to_a_version_that_it_allows(lock: str) -> None:
    pinned = pins(lock)
    for requirement in map(Requirement, LOCKED[lock]):
        assert requirement.specifier.contains(pinned[canonical(requirement.name)]), requirement


@pytest.mark.parametrize("lock", LOCKED)
def test_a_lock_has_hashes_for_everything_and_names_no_place(lock: str) -> None:
    text = (ROOT / lock).read_text()
    pinned = re.findall(r"^([a-z0-9-]+)==", text, re.M)

    assert pinned == list(pins(lock))
    assert not re.search(r"://|--(extra-)?index|--find-links|file:|@ ", text)


def test_the_locks_agree_with_each_other() -> None:
    runtime, embedded, dev, examples = (pins(lock).items() for lock in LOCKED)

    assert runtime <= embedded <= dev
    assert examples <= dev


def test_the_lock_of_the_node_example_names_no_place() -> None:
    lock = json.loads((ROOT / "examples" / "node" / "package-lock.json").read_text())
    packages = [package for name, package in lock["packages"].items() if name]

    assert packages
    assert all("integrity" in package and "resolved" not in package for package in packages)


def test_the_image_carries_no_embedded_servers() -> None:
    embedded = map(Requirement, PROJECT["project"]["optional-dependencies"]["embedded"])

    assert not {canonical(item.name) for item in embedded} & pins("requirements.lock").keys()
    assert "requirements.lock" in (ROOT / "Dockerfile").read_text()


def test_the_generated_modules_are_those_of_the_protos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(PROGRAMS), prepend=os.pathsep)
    generate(tmp_path)

    def modules(root: Path) -> dict[str, str]:
        return {file.name: file.read_text() for file in (root / "engine" / "v1").glob("*_pb2*.py*")}

    assert modules(tmp_path) == modules(ROOT)


def test_the_protos_pass_the_linter() -> None:
    lint = subprocess.run(
        [PROGRAMS / "buf", "lint"],
        cwd=ROOT / "protos",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert lint.stdout + lint.stderr == ""
    assert lint.returncode == 0
