"""The benchmarks run, on tiny models, and all contenders train the same model as one process. No time is asserted.

Each starts several jobs, and a failure in one shows when it is next used: all are marked `zoo`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTENDERS = [
    ("mlp", ["single1", "hand", "autopar"]),
    ("mlp", ["single1", "ddp", "dtensor", "autopar"]),
    ("unet", ["single1", "mpi", "autopar"]),
]
SCRIPTS = [path for path in (ROOT / "benchmarks").rglob("*.py") if "    parser = " in path.read_text()]

pytestmark = pytest.mark.spmd


def run(script: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", f"benchmarks.{script}", "--small", "--json", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


HELP = """
import contextlib, io, runpy, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as said:
        runpy.run_module(name, run_name="__main__")
    assert said.getvalue().startswith("usage: "), name
"""


@pytest.mark.zoo
def test_every_benchmark_can_be_asked_for_help():
    """So all that they import is there."""
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__") for path in SCRIPTS]
    assert len(names) > 15
    subprocess.run([sys.executable, "-W", "ignore", "-c", HELP, *names], cwd=ROOT, check=True, timeout=300)


@pytest.mark.zoo
@pytest.mark.parametrize(("model", "contenders"), CONTENDERS)
def test_contenders_train_the_same_model(model: str, contenders: list[str]):
    found = run("step_time", "--models", model, "--rounds", "1", "--steps", "2", "--contenders", *contenders)
    (record,) = found["models"]
    ran = [result for result in record["contenders"] if not result["refused"]]
    refused = {result["contender"]: result["refused"] for result in record["contenders"] if result["refused"]}
    assert refused == ({"mpi": "a batch of 1 cannot be split"} if model == "unet" else {})
    assert not [result["contender"] for result in ran if not result["same_losses"]]
    assert all(len(result["rounds"][0]) == 2 for result in ran)
    assert "1 process, 1 thread" in record["autopar_over"]


@pytest.mark.zoo
def test_the_chosen_plan_beside_the_fixed_ones():
    short = ["--models", "mlp", "--ranks", "2", "--rounds", "1", "--steps", "2"]
    found = run("baselines", *short, "--plans", "model", "domain", "megatron")
    (record,) = found["records"]
    plans = {plan["plan"]: plan for plan in record["plans"]}
    assert list(plans) == ["chosen", "model", "domain", "megatron"]
    assert plans["megatron"]["refused"] == "the same program as model"
    assert plans["domain"]["refused"].startswith("there is no spatial dim")
    ran = [plan for plan in plans.values() if not plan["refused"]]
    assert all(plan["losses"] == pytest.approx(plans["chosen"]["losses"], rel=1e-5) for plan in ran)
    assert record["fastest_baseline"] in plans
    assert record["chosen_over_fastest"] > 0
    assert -1 <= record["order"] <= 1


@pytest.mark.zoo
def test_a_competitor_comes_and_goes():
    names = ["gpt2-batch", "zero"]
    found = run("rebalance", "--cases", *names, "--steps", "22", "--slow-at", "4", "--free-at", "13")
    assert [record["case"] for record in found] == names
    for record in found:
        assert len(record["seconds"]) == len(record["compute"]) == len(record["cuts"]) == 22
        assert min(record[key] for key in ("before", "unmoved", "after", "best", "freed_again")) > 0


@pytest.mark.zoo
def test_a_move_sends_what_changes_owner_and_little_else():
    found = run("rebalance", "--move")
    assert found["bytes_that_change_owner"] > 0
    assert found["move_seconds"] > 0


@pytest.mark.zoo
def test_a_plan_for_unequal_ranks_beside_the_equal_division():
    found = run("unequal", "--rounds", "1", "--steps", "2", "--pin", "*: b0@axis0")
    assert found["cuts"]
    assert [rank["speed"] for rank in found["ranks"]] == found["speeds"]
    assert found["taken"] == [pytest.approx(0.5, abs=0.01)]
    assert found["best"] == pytest.approx(found["before"] * 2 / sum(found["speeds"]))
    assert all(rank["measured_peak"] > 0 for rank in found["ranks"])


@pytest.mark.zoo
def test_stalled_ranks_leave_the_gradients_alone():
    found = run("queue", "--rounds", "1", "--steps", "2")
    assert {"queue", "halves", "batch", "check", "stalls"} == set(found)
    assert all(found[way]["stalled"] >= found[way]["load"] > 0 for way in ("queue", "halves", "batch"))
    assert found["check"]["difference"] <= 1e-10


@pytest.mark.zoo
def test_stages_of_torch_and_autopar_train_the_same_model():
    found = run("pipeline", "--ranks", "2", "--rounds", "1", "--steps", "2", "--schedules", "interleaved")
    ran = {(row["model"], row["who"]): row for row in found["rows"] if not row["refused"]}
    assert set(ran) == {
        ("deep_gpt2", "torch"),
        ("deep_gpt2", "autopar"),
        ("deep_gpt2", "free"),
        ("group_unet", "autopar"),
    }
    alone = ran["deep_gpt2", "torch"]["losses"]
    assert all(
        row["losses"] == pytest.approx(alone, rel=1e-5) for (model, _), row in ran.items() if model == "deep_gpt2"
    )
    assert all(len(row["peaks"]) == 2 for row in ran.values())
    (refusal,) = [row["refused"] for row in found["rows"] if row["refused"]]
    assert "skip connections, which are unsupported" in refusal


@pytest.mark.zoo
def test_memory_is_predicted_and_measured():
    found = run("memory", "--models", "mlp", "--plans", "data", "domain")
    ran = [one for one in found if not one["refused"]]
    assert [(one["ranks"], one["plan"]) for one in ran] == [(2, "data"), (1, "auto")]
    assert all(one["predicted"] > 0 and one["measured"] > 0 for one in ran)
    assert [one["plan"] for one in found if one["refused"]] == ["domain"]
