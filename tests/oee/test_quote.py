"""`oee quote`: pools and test vectors from files."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from oee.__main__ import app

ROOT = Path(__file__).parents[2]
VECTORS = sorted((ROOT / "tests" / "data" / "vectors").glob("*.json"))
DLMM = next(path for path in VECTORS if path.stem == "meteora_dlmm")
CPMM = next(path for path in VECTORS if path.stem == "raydium_cpmm")
POOL = {
    "vault_0": "1000000",
    "vault_1": 2_000_000,
    "trade_fee_rate": 2500,
    "protocol_fee_rate": 120_000,
    "fund_fee_rate": 40_000,
    "token_0_mint": "So11111111111111111111111111111111111111112",
}


def quote(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["quote", *map(str, arguments)])


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Writes an object, or text as it is, and returns its path."""

    def write(data: object, name: str = "file.json") -> Path:
        path = tmp_path / name
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        return path

    return write


def vector_file(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_pool_that_the_readme_shows_is_quoted() -> None:
    shown = "oee quote --pool examples/pool.json --amount-in 1000000\n"
    assert shown in (ROOT / "README.md").read_text()

    result = quote("--pool", ROOT / "examples" / "pool.json", "--amount-in", 1_000_000)
    assert (result.exit_code, json.loads(result.stdout)["amount_out"]) == (0, "149634")


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_every_sample_of_the_real_programs_is_exact(path: Path) -> None:
    result = quote("--vectors", path)

    assert result.exit_code == 0, result.stdout
    assert "FAILED" not in result.stdout


def test_many_files_are_summed_up_by_category() -> None:
    result = quote("--vectors", *VECTORS)

    assert result.exit_code == 0
    assert "raydium_cpmm exact_out_drain: 1 of 1 exact, ok" in result.stdout
    assert "meteora_dlmm sequences: 1 of 1 exact, ok" in result.stdout
    assert result.stdout.splitlines()[-1] == "all: 56 of 56 exact"


def leaves(expected: dict[str, Any]) -> list[str]:
    return [name for name in expected if not name.startswith("sdk_")]


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_a_change_of_any_expected_key_is_a_difference(path: Path, written: Any) -> None:
    rows = vector_file(path)
    changed = []
    for vector in rows["vectors"]:
        for name in leaves(vector["expected"]):
            other = copy.deepcopy(vector)
            other["expected"][name] = "something else"
            changed.append(other)
    rows["vectors"], rows["sequences"] = changed, []

    result = quote("--vectors", written(rows))

    lines = result.stdout.splitlines()
    assert result.exit_code == 1
    assert sum("expected something else" in line for line in lines) == len(changed)
    assert lines[-1] == f"all: 0 of {len(changed)} exact"


def test_a_change_in_any_step_of_a_sequence_is_a_difference(written: Any) -> None:
    rows = vector_file(CPMM)
    rows["sequences"][0]["steps"][1]["expected"]["vault_1"] = "4180238537"

    result = quote("--vectors", written(rows))

    assert result.exit_code == 1
    assert "cpmm-seq-001 step 2 vault_1: expected 4180238537, computed 4180238536" in result.stdout
    assert "raydium_cpmm sequences: 0 of 1 exact, FAILED" in result.stdout


def test_figures_of_an_sdk_bind_nobody(written: Any) -> None:
    rows = vector_file(DLMM)
    for vector in rows["vectors"]:
        vector["expected"]["sdk_price_impact_pct"] = "7"

    assert quote("--vectors", written(rows)).exit_code == 0


@pytest.mark.parametrize("expected", [{}, {"sdk_agrees": False}])
def test_a_vector_that_expects_nothing_is_a_difference(expected: Any, written: Any) -> None:
    rows = vector_file(CPMM)
    rows["vectors"] = [rows["vectors"][0] | {"expected": expected}]

    assert quote("--vectors", written(rows)).exit_code == 1


def test_an_error_that_should_not_be_and_one_that_should_are_differences(written: Any) -> None:
    rows = vector_file(CPMM)
    good, bad = rows["vectors"][0], rows["vectors"][2]
    swapped = [good | {"expected": bad["expected"]}, bad | {"expected": good["expected"]}]

    result = quote("--vectors", written(rows | {"vectors": swapped, "sequences": []}))

    assert f"{good['id']} error: expected ZERO_OUTPUT, computed none" in result.stdout
    assert f"{bad['id']} error: expected none, computed ZERO_OUTPUT" in result.stdout
    assert result.exit_code == 1


def test_what_is_not_computed_has_failed(written: Any) -> None:
    unknown = vector_file(CPMM) | {"kind": "orca_whirlpool"}
    partial = vector_file(CPMM)
    partial["vectors"][0]["input"]["mode"] = "partial_fill"

    kind, mode = quote("--vectors", written(unknown)), quote("--vectors", written(partial))

    assert kind.exit_code == 1
    assert "orca_whirlpool typical: 0 of 1 exact, FAILED" in kind.stdout
    assert mode.exit_code == 1
    assert "computed NOT_COMPUTED" in mode.stdout
    assert "raydium_cpmm typical: 0 of 1 exact, FAILED" in mode.stdout


@pytest.mark.parametrize("field", ["reserve_in", "mode", "amount"])
def test_a_malformed_input_is_told_and_the_others_still_computed(field: str, written: Any) -> None:
    rows = vector_file(CPMM)
    rows["vectors"][0]["input"][field] = ["many"]

    result = quote("--vectors", written(rows))

    assert result.exit_code == 2
    assert f"cpmm-0001 {field}: ['many'] is not" in result.stdout
    assert result.stdout.splitlines()[-1] == "all: 13 of 14 exact"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("{", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[]", "it is not a JSON object"),
        ("{}", "kind: None"),
        ({"kind": "raydium_cpmm"}, "neither vectors nor sequences"),
        ({"kind": "raydium_cpmm", "vectors": {"a": 1}}, "vectors: it is not a list"),
        ({"kind": "raydium_cpmm", "vectors": [1]}, "vectors[0]: it is not a JSON object"),
        ({"kind": "raydium_cpmm", "vectors": [{"id": 1}]}, "vectors[0].id"),
        (
            {"kind": "raydium_cpmm", "sequences": [{"id": "a", "initial": {}, "steps": [{}]}]},
            "sequences[0].steps[0].input",
        ),
    ],
)
def test_a_file_that_holds_no_vectors_is_wrong_usage(data: Any, said: str, written: Any) -> None:
    result = quote("--vectors", CPMM, written(data))

    assert result.exit_code == 2
    assert said.replace(" ", "") in "".join(result.stderr.split()).replace("│", "")


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    assert quote("--vectors", tmp_path / "none.json").exit_code == 2
    assert quote("--pool", tmp_path / "none.json", "--amount-in", 1).exit_code == 2


def test_a_pool_is_quoted_in_both_directions(written: Any) -> None:
    path = written(POOL)

    forward = json.loads(quote("--pool", path, "--amount-in", 1000).stdout)
    back = json.loads(quote("--pool", path, "--amount-in", 1000, "--token-in", 1).stdout)

    assert (forward["kind"], forward["amount_out"]) == ("raydium_cpmm", "1992")
    assert forward["pool_after"]["vault_0"] == "1001000"
    # 997 after the fee pay 1992, not 1994.
    assert forward["price_impact_curve"] == "0.001003009027"
    assert (back["zero_for_one"], back["amount_out"]) == (False, "498")


def test_a_pool_can_be_asked_for_an_exact_output(written: Any) -> None:
    path = written(POOL)

    told = json.loads(quote("--pool", path, "--amount-out", 1992).stdout)

    assert (told["mode"], told["amount_in"], told["amount_out"]) == ("exact_out", "1000", "1992")


def test_a_pool_may_follow_on_its_own_quote(written: Any) -> None:
    first = json.loads(quote("--pool", written(POOL), "--amount-in", 1000).stdout)

    second = quote("--pool", written(first["pool_after"]), "--amount-in", 1000)

    assert json.loads(second.stdout)["amount_out"] == "1988"


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_a_vectors_input_is_a_pool(path: Path, written: Any) -> None:
    vector = vector_file(path)["vectors"][1]
    amount = vector["input"]["amount"]

    result = quote("--pool", written(vector["input"]), "--amount-in", amount)

    told = json.loads(result.stdout)
    assert told["kind"] == path.stem
    assert told["amount_out"] == vector["expected"]["amount_out"]


def test_time_may_be_given(written: Any) -> None:
    pool = vector_file(DLMM)["vectors"][4]["input"]
    path = written(pool)

    kept, later = (
        json.loads(quote("--pool", path, "--amount-in", 10**9, "--now", now).stdout)
        for now in (pool["v"]["last_update_timestamp"], pool["now"])
    )

    assert int(kept["fee"]) > int(later["fee"])


@pytest.mark.parametrize(
    ("data", "amount", "reason"),
    [(POOL, 0, "ZERO_AMOUNT"), (POOL, 1, "ZERO_OUTPUT")],
)
def test_a_swap_that_the_program_refuses_exits_1(
    data: Any, amount: int, reason: str, written: Any
) -> None:
    result = quote("--pool", written(data), "--amount-in", amount)

    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"] == reason


def test_a_bin_that_pays_nothing_refuses(written: Any) -> None:
    pool = vector_file(DLMM)["vectors"][6]["input"]

    result = quote("--pool", written(pool), "--amount-in", 1)

    assert (result.exit_code, json.loads(result.stdout)["error"]) == (1, "ZERO_OUTPUT")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--amount-in", "5"),
        ("--pool", "POOL"),
        ("--pool", "POOL", "--amount-in", "5", "--amount-out", "5"),
        ("--pool", "POOL", "--amount-in", "-5"),
        ("--pool", "POOL", "--amount-in", "1.5"),
        ("--pool", "POOL", "--amount-in", "18446744073709551616"),
        ("--pool", "POOL", "--amount-in", "5", "--token-in", "2"),
        ("--pool", "WRONG", "--amount-in", "5"),
        ("--pool", "UNKNOWN", "--amount-in", "5"),
    ],
)
def test_wrong_usage_exits_2(arguments: tuple[str, ...], written: Any) -> None:
    files = {
        "POOL": written(POOL, "pool.json"),
        "WRONG": written(POOL | {"vault_0": "much"}, "wrong.json"),
        "UNKNOWN": written({"kind": "orca_whirlpool"}, "unknown.json"),
    }

    assert quote(*(files.get(word, word) for word in arguments)).exit_code == 2
