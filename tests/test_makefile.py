"""Which Python `make` sets up with."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
OPTIMISED = "'--enable-shared' '--enable-optimizations'"
PLAIN = "'--enable-shared'"

# This Python, as one of another version and build would answer.
INTERPRETER = """#!/bin/sh
exec "{python}" -c "
import sys, sysconfig
if not {venv}: sys.modules['ensurepip'] = None
sys.version_info, sys.base_prefix = {version}, '{prefix}'
sysconfig.get_config_var = lambda name: \\"{flags}\\"
exec('''$2''')"
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path) -> Install:
    def install(
        name: str,
        flags: str,
        *,
        version: tuple[int, ...] = (3, 12, 1),
        prefix: str = "/opt",
        venv: bool = True,
    ) -> None:
        interpreter = tmp_path / name
        interpreter.write_text(
            INTERPRETER.format(
                python=sys.executable, version=version, prefix=prefix, flags=flags, venv=venv
            )
        )
        interpreter.chmod(0o755)

    return install


def chosen(directory: Path, *settings: str) -> str:
    """What `make` takes of the Pythons in the directory: `newer`, `older` and the `systems` own."""
    database = subprocess.run(
        [
            *("make", "--print-data-base", "--dry-run", "help"),
            *("NEWEST_FIRST=newer older", "SYSTEM_PYTHON=systems", *settings),
        ],
        cwd=ROOT,
        env={"PATH": f"{directory}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout
    found = re.search(r"^PYTHON :?= ?(.*)$", database, re.M)
    assert found is not None
    return found[1]


def test_an_optimised_build_goes_before_a_newer_plain_one(tmp_path: Path, install: Install) -> None:
    install("newer", PLAIN)
    install("older", OPTIMISED)

    assert chosen(tmp_path) == "older"


def test_the_systems_own_is_optimised_whatever_its_flags(tmp_path: Path, install: Install) -> None:
    install("newer", PLAIN)
    install("systems", PLAIN, prefix="/usr")

    assert chosen(tmp_path) == "systems"


def test_of_equal_builds_the_newest_is_taken(tmp_path: Path, install: Install) -> None:
    for flags in (PLAIN, OPTIMISED):
        install("newer", flags)
        install("older", flags)

        assert chosen(tmp_path) == "newer"


@pytest.mark.parametrize("lack", [{"version": (3, 9, 6)}, {"venv": False}])
def test_one_that_is_too_old_or_has_no_venv_is_passed_over(
    tmp_path: Path, install: Install, lack: dict[str, Any]
) -> None:
    install("newer", PLAIN)
    install("systems", OPTIMISED, prefix="/usr", **lack)

    assert chosen(tmp_path) == "newer"


def test_what_the_caller_says_is_taken(tmp_path: Path, install: Install) -> None:
    install("newer", OPTIMISED)

    assert chosen(tmp_path, "PYTHON=older") == "older"


def test_where_there_is_none_setting_up_says_what_is_needed(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "demo", "NEWEST_FIRST=newer older", "SYSTEM_PYTHON=systems", f"VENV={tmp_path}/v"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert done.returncode != 0
    assert "Python 3.11 or newer with venv is needed" in done.stderr
