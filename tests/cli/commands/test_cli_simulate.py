"""`autopar simulate`: a step in time, curves over ranks, and what is refused. Its numbers are those of the plans it speaks of."""

import json
import xml.etree.ElementTree as ET

import pytest
from cli_case import NET, done, refused, write

from autopar.artifact import load
from autopar.cli.commands.simulate import ranks_of
from autopar.ir.machine import load as load_machine
from autopar.recompile import recompile

WIDE = NET.replace("width=64", "width=256").replace("zeros(8, 64)", "zeros(1024, 256)")
FIXED = """import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        return self.fc(x.reshape(4, 8)).square().mean()


def model():
    return Net()


example_inputs = (torch.zeros(4, 8),)
"""


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    root = tmp_path_factory.mktemp("simulate")
    done("compile", write(root, WIDE), "--grid", "4", "--machine", "h100", "-o", root / "build")
    return root / "build"


def facts(*words):
    return json.loads(done("simulate", *words, "--json"))


def test_slow_ranks_are_planned_for_on_request(tmp_path):
    build = tmp_path / "build"
    done("compile", write(tmp_path, WIDE), "--grid", "2", "--machine", "cpu", "-o", build)
    plain, again = facts(build, "--slow", "1:2"), facts(build, "--slow", "1:2", "--replan")
    assert again["compiled_seconds"] == plain["step_seconds"]
    assert plain["even_seconds"] < again["step_seconds"] < plain["step_seconds"]
    assert [len(cuts) for cuts in again["cuts"].values()] == [3]
    assert "without --slow" in refused("simulate", build, "--replan")
    assert "no such rank" in refused("simulate", build, "--slow", "2:2", "--replan")


def test_a_step_is_the_one_that_the_plan_predicts(build):
    plan, found = load(build).plan, facts(build)
    predicted = plan.predicted
    assert (found["model"], found["machine"], found["grid"], found["ranks"]) == ("net", "h100", "4", 4)
    assert found["step_seconds"] == found["even_seconds"] == pytest.approx(predicted.seconds)
    assert found["compute_seconds"] == pytest.approx(predicted.compute + predicted.update)
    assert found["communication_seconds"] == pytest.approx(predicted.communication)
    assert found["exposed_seconds"] == pytest.approx(predicted.gradients)
    assert found["sums_seconds"] >= found["exposed_seconds"]
    assert found["most_waiting_seconds"] == 0
    assert found["noise"] == {"slow": {}, "jitter": 0.0, "seed": 0, "steps": 1}
    assert len(found["steps"]) == 1


def test_a_slow_rank_is_the_one_that_the_others_wait_for(build):
    found = facts(build, "--slow", "2:1.5")
    assert found["critical"] == 2
    assert 1 < found["step_seconds"] / found["even_seconds"] <= 1.5
    assert found["most_waiting_seconds"] > 0
    assert found["waiting_seconds"] == pytest.approx(0.0, abs=1e-12)
    assert facts(build, "--slow", "2=1.5") == found


def test_jitter_repeats_with_its_seed(build):
    words = [build, "--jitter", "0.1", "--steps", "3"]
    first, other = done("simulate", *words, "--json"), facts(*words, "--seed", "1")
    assert done("simulate", *words, "--json") == first
    assert other["steps"] != json.loads(first)["steps"]
    assert len(other["steps"]) == 3
    assert done("simulate", *words) == done("simulate", *words)


def test_another_machine_plans_the_same_grid_anew(build):
    found = facts(build, "--machine", "cpu")
    expected = recompile(build).replan(machine="cpu", memory="machine").plan
    assert found["machine"] == "cpu"
    assert found["grid"] == "4"
    assert found["step_seconds"] == pytest.approx(expected.predicted.seconds)


def test_tables_for_people(build):
    text = done("simulate", build, "--slow", "1:2", "--jitter", "0.1", "--steps", "2", columns=120)
    assert "net on grid 4, machine h100: one step, predicted" in text
    assert "2 x as long" in text
    assert "over 2 steps" in text
    lanes = [line for line in text.splitlines() if line.startswith("rank ")]
    assert {line.split()[1] for line in lanes} == {"0", "1"}
    assert all(set(line.split(maxsplit=3)[3]) <= set("FBxgu. ") for line in lanes)


def test_a_trace_has_one_process_per_rank_and_a_thread_per_lane(build, tmp_path):
    done("simulate", build, "--slow", "3:2", "--trace", tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert [one["args"]["name"] for one in events if one["name"] == "process_name"] == [
        "predicted, rank 0",
        "predicted, rank 3",
    ]
    spans = [one for one in events if one["ph"] == "X"]
    seconds = facts(build, "--slow", "3:2")["step_seconds"]
    assert max(one["ts"] + one["dur"] for one in spans) == pytest.approx(seconds * 1e6)
    assert {one["pid"] for one in spans} == {0, 1}


def test_strong_scaling_plans_every_number_of_ranks_anew(build):
    found = facts(build, "--ranks", "1,2,4", "--grid", "2x2")["points"]
    assert [(one["ranks"], one["rows"], one["why"]) for one in found] == [(count, 1024, "") for count in (1, 2, 4, 4)]
    again = recompile(build)
    for one in found:
        plan = again.replan(grid=one["grid"]).plan
        assert one["step_seconds"] == pytest.approx(plan.predicted.seconds)
        assert one["bytes"] == plan.predicted.bytes
        assert one["speedup"] == pytest.approx(plan.single / plan.predicted.seconds)
        assert one["efficiency"] == pytest.approx(one["speedup"] / one["ranks"])
        assert 0 <= one["communication_share"] < 1
    best = {grid: again.replan(grid=grid).plan.predicted.seconds for grid in ("4", "2x2")}
    assert found[2]["grid"] == min(best, key=lambda grid: best[grid])
    assert found[3]["grid"] == "2x2"
    assert found[0]["speedup"] == pytest.approx(1.0)


def test_weak_scaling_grows_the_batch_with_the_ranks(build):
    found = facts(build, "--ranks", "1,4", "--scaling", "both", "--batch", "16")["points"]
    assert [(one["scaling"], one["ranks"], one["rows"]) for one in found] == [
        ("strong", 1, 16), ("strong", 4, 16), ("weak", 1, 16), ("weak", 4, 64),
    ]  # fmt: skip
    strong, _, one, four = found
    assert one["step_seconds"] == pytest.approx(strong["step_seconds"])
    assert one["efficiency"] == pytest.approx(1.0)
    assert four["speedup"] == pytest.approx(4 * one["step_seconds"] / four["step_seconds"])


def test_a_curve_as_table_and_picture(build, tmp_path):
    text = done(
        "simulate", build, "--ranks", "1,2,...,4", "--scaling", "both", "--svg", tmp_path / "curve.svg", columns=160
    )
    assert "net on h100, strong scaling: the same batch on all, predicted" in text
    assert "net on h100, weak scaling: the batch grows with the ranks, predicted" in text
    assert text.count(" 1024 ") >= 3
    root = ET.parse(tmp_path / "curve.svg").getroot()
    kinds = [one.tag.rpartition("}")[2] for one in root.iter()]
    assert kinds.count("polyline") == 2 * 3  # ideal, strong, weak, and the same in the legend
    assert kinds.count("circle") == 6


@pytest.fixture(scope="module")
def tight(build):
    folder = build.parent / "tight"
    done("compile", build.parent / "net.py", "--grid", "4", "--memory", "8MiB", "-o", folder)
    return folder


def test_a_point_without_memory_is_a_row_that_says_so(tight):
    found = facts(tight, "--ranks", "1,4")["points"]
    assert found[0]["why"].startswith("memory limit 8.00 MiB per rank: net on grid 1 needs ")
    assert found[0]["grid"] is found[0]["step_seconds"] is found[0]["efficiency"] is None
    assert found[1]["why"] == ""
    text = done("simulate", tight, "--ranks", "1,4")
    assert f"1 ranks, strong: {found[0]['why']}" in text.splitlines()


def test_the_reference_may_be_larger_than_a_rank(tight):
    found = facts(tight, "--ranks", "1,4", "--scaling", "weak", "--batch", "256")["points"]
    assert found[0]["speedup"] is None
    assert found[1]["speedup"] > 1


def test_pins_keep_their_axes(build, tmp_path):
    done(
        "compile",
        build.parent / "net.py",
        "--grid",
        "data=2,model=2",
        "--pin",
        "fc1: n@model",
        "-o",
        tmp_path / "pinned",
    )
    (one,) = facts(tmp_path / "pinned", "--ranks", "4")["points"]
    assert one["why"] == ""
    assert one["grid"] in ("data=1,model=4", "data=2,model=2", "data=4,model=1")


@pytest.mark.parametrize(
    ("text", "ranks"),
    [("1", (1,)), ("3,2", (3, 2)), ("1,2,...,8", (1, 2, 4, 8)), ("2,6,...,60", (2, 6, 18, 54))],
)
def test_lists_of_ranks(text, ranks):
    assert ranks_of(text) == ranks


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--ranks 1,x", "--ranks: '1,x' is not a list of numbers of ranks"),
        ("--ranks 0", "--ranks: '0' is not a list"),
        ("--ranks 2,2", "--ranks: '2,2' is not a list"),
        ("--ranks 1,2,...,0", "is not a list"),
        ("--rank 4", "--rank; did you mean '--ranks'?"),
        ("--slow 3", "--slow: '3' is not a rank and a factor above 0"),
        ("--slow 3:0", "--slow: '3:0' is not a rank and a factor above 0"),
        ("--slow 3:-1", "--slow: '3:-1' is not a rank and a factor above 0"),
        ("--slow x:2", "--slow: 'x:2' is not a rank and a factor above 0"),
        ("--jitter -0.1", "--jitter"),
        ("--jitter nan", "--jitter: 'nan' is not a number of at least 0"),
        ("--steps 0", "--steps: '0' is not a whole number of at least 1"),
        ("--scaling week", "--scaling 'week' is unknown; did you mean 'weak'?"),
    ],
)
def test_words_that_make_no_sense(words, said):
    assert said in refused("simulate", "build", *words.split(), status=2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--slow 4:2 --slow 7:2", "- rank 7 of 4"),
        ("--slow 1:2 --ranks 1,2", "- rank 1 of 1"),
        ("--slow 1:2 --slow 1:3", "- rank 1"),
        ("--grid 2y2", "grid '2y2': not a grid"),
        ("--machine h10", "did you mean 'h100'?"),
        ("--svg curve.svg", "given without --grid or --ranks"),
        ("--scaling weak", "--scaling: given without --grid or --ranks"),
        ("--ranks 2 --trace t.json", "--trace: given with --grid or --ranks"),
        ("--trace no/such/folder/t.json", "no/such/folder/t.json: cannot be written"),
    ],
)
def test_questions_without_an_answer(build, words, said):
    assert said in refused("simulate", build, *words.split())


def test_ranks_that_the_machine_does_not_have(build, tmp_path):
    text = (load_text("h100")).replace("ranks_per_node = 8\n", "ranks_per_node = 8\nnodes = 2\n")
    (tmp_path / "small.toml").write_text(text)
    said = refused("simulate", build, "--ranks", "16,32", "--machine", tmp_path / "small.toml")
    assert "32 ranks do not fit" in said
    assert load_machine(tmp_path / "small.toml").nodes == 2


def load_text(name):
    from importlib import resources

    return (resources.files("autopar.configs") / "machines" / f"{name}.toml").read_text("utf-8")


def test_a_batch_that_is_fixed(tmp_path):
    done("compile", write(tmp_path, FIXED), "--grid", "2", "-o", tmp_path / "build")
    for words in ("--scaling weak", "--batch 8"):
        assert "its batch is as compiled only" in refused(
            "simulate", tmp_path / "build", "--ranks", "2", *words.split()
        )
    assert facts(tmp_path / "build", "--ranks", "2")["points"][0]["why"] == ""


def test_a_model_that_changed_is_refused(tmp_path):
    path = write(tmp_path)
    done("compile", path, "--grid", "2", "-o", tmp_path / "build")
    path.write_text(path.read_text() + "\n# another\n")
    assert "the file changed since it was compiled" in refused("simulate", tmp_path / "build", "--ranks", "2")
    assert facts(tmp_path / "build")["ranks"] == 2  # the plan alone needs no model


@pytest.mark.parametrize(
    "words",
    [
        "simulate build --trace FILE",
        "simulate build --ranks 1,2 --svg FILE",
        "report build --trace FILE",
        "run build --save FILE",
        "calibrate -o FILE",
    ],
)
def test_files_that_cannot_be_written_are_refused_before_the_work(words, tmp_path, monkeypatch):
    """By root too, whom no mode of a folder stops: the file system itself says no."""

    def read_only(*, dir: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("autopar.files.tempfile.TemporaryFile", read_only)
    monkeypatch.setattr(
        "autopar.artifact.load", lambda folder: pytest.fail("the work has begun") if "run" not in words else None
    )
    said = refused(*words.replace("FILE", str(tmp_path / "out.toml")).split())
    assert "cannot be written: Read-only file system" in said
    assert str(tmp_path / "out.toml") in said
