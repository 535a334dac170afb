"""`autopar compile`: what it prints and writes, and that whatever it refuses leaves the output as it was."""

import json
import re
from pathlib import Path

import pytest
from cli_case import BLOCKS, NET, done, refused, run, snapshot, write

import autopar
from autopar.ir.grid import GridShape
from autopar.ir.machine import shipped

CPU = (Path(autopar.__file__).parents[1] / "configs" / "machines" / "cpu.toml").read_text()


@pytest.fixture
def model(tmp_path):
    return write(tmp_path)


def test_one_line_per_stage_then_what_a_person_wants_to_know(model, tmp_path):
    lines = done("compile", model, "--grid", "2", "-o", tmp_path / "build").splitlines()
    labels = ["captured", "priced", "solved", "emitted", "split", "predicted", "wrote", "next"]
    assert [line.split()[0] for line in lines] == labels
    assert all(re.search(r" \d+\.\d s$", line) for line in lines[:4])
    assert re.fullmatch(r"split +\w+ over axis0", lines[4])
    assert re.fullmatch(r"predicted +[\d.]+ ms per step, [\d.]+x over 1 rank; [\d.]+ KiB per rank", lines[5])
    assert lines[7].endswith(f"autopar inspect {tmp_path / 'build'}; autopar run {tmp_path / 'build'}")
    assert sorted(snapshot(tmp_path / "build")) == ["plan.json", "program.py"]


def test_json_is_one_object_even_where_the_model_file_prints(tmp_path):
    model = write(
        tmp_path, NET.replace("    return Net()", "    print('making it')\n    return Net()") + "\nprint('hello')\n"
    )
    status, out, err = run("compile", model, "--grid", "2", "-o", tmp_path / "build", "--json")
    facts = json.loads(out)
    assert status == 0
    assert "hello\n" in err
    assert set(facts) == {
        "folder", "split", "stages", "predicted_seconds", "predicted_bytes", "single_seconds", "gap", "without_rule",
        "without_rule_share", "discovered", "grid", "grids", "placement",
    }  # fmt: skip
    assert facts["folder"] == str(tmp_path / "build")
    assert list(facts["stages"]) == ["captured", "priced", "solved", "emitted"]
    assert sum(facts["split"]["axis0"].values()) == pytest.approx(1)
    assert 0 < facts["predicted_seconds"] < facts["single_seconds"]
    assert (facts["without_rule"], facts["without_rule_share"], facts["discovered"]) == ([], 0, [])


CUSTOM = """
if not hasattr(torch.ops.clicase, "mixed"):  # a file may be loaded twice
    LIBRARY = torch.library.Library("clicase", "FRAGMENT")
    LIBRARY.define("mixed(Tensor x) -> Tensor")
    LIBRARY.impl("mixed", lambda x: x - x.sum(), "CompositeExplicitAutograd")
    LIBRARY.define("scaled(Tensor x, int n) -> Tensor")
    LIBRARY.impl("scaled", lambda x, n: x / n * x.shape[1], "CompositeExplicitAutograd")
"""


def test_operators_without_a_rule_are_listed(tmp_path):
    text = NET.replace("class Net", f"{CUSTOM}\n\nclass Net", 1)
    calls = "s = torch.ops.clicase.scaled(x, 64)\n            t = torch.ops.clicase.mixed(s)\n        h = h + t.sum()"
    text = text.replace("F.relu(self.fc1(x))", f"self.fc1(x)\n        with torch.no_grad():\n            {calls}")
    out = done("compile", write(tmp_path, text), "--grid", "2", "-o", tmp_path / "build")
    assert re.search(r"^discovered +clicase.scaled: a b -> a b  ", out, re.MULTILINE)
    assert re.search(r"^discovered +clicase.mixed: runs whole: no dim of it can be split", out, re.MULTILINE)
    assert re.search(r"clicase.scaled +a b -> a b +1 +[\d.]+% +\w+.py:\d+", out)
    assert "these operators have no rule and run whole on every rank" in out.splitlines()
    assert re.search(r"clicase.mixed +1 +[\d.]+% +\w+.py:\d+", out)
    assert re.search(r"together +1 +[\d.]+%", out)
    assert "docs/adding_an_operator.md says how to add a rule" in out
    assert re.search(r"clicase.mixed +1 +[\d.]+%", done("inspect", tmp_path / "build"))
    assert "none was found: no dim of it can be split" in done("explain", tmp_path / "build", "mixed")
    record = done("explain", tmp_path / "build", "scaled", "--record")
    assert 'targets=("clicase.scaled.default",),' in record
    compile(record, "record.py", "exec")
    status, _, err = run("explain", tmp_path / "build", "fc1", "--record")
    assert status == 1
    assert "none of these calls is one" in err


def test_options_reach_the_plan(tmp_path):
    model = write(tmp_path, BLOCKS)
    (tmp_path / "mine.toml").write_text(CPU.replace('name = "cpu"', 'name = "mine"'))
    line = ["--grid", "data=2,model=2", "--memory", "2GiB", "--solver", "ilp", "--time-limit", "9"]
    line += ["--optimizer", "sgd", "--loss", "mean"]
    pins = ["--pin", "layers.*.wide: n@model", "--pin", "layers.*.slim: k@model"]
    done("compile", model, *line, *pins, "--machine", tmp_path / "mine.toml", "-o", tmp_path / "build")
    plan = autopar.load_plan(tmp_path / "build")
    options = plan.options
    assert (plan.name, plan.grid, plan.machine.name) == ("net", "data=2,model=2", "mine")
    assert (options.memory, options.solver, options.time_limit) == (2 * 2**30, "ilp", 9)
    assert (options.optimizer, options.loss, options.pins) == ("sgd", "mean", tuple(pins[1::2]))
    wide = [node for node in plan.nodes if node.module.endswith("wide")]
    assert [node.choices[1].letter for node in wide] == ["n"] * 3
    assert plan.model.path == "../net.py"
    assert "from net.py." in (tmp_path / "build" / "program.py").read_text().splitlines()[0]


def compile_refused(tmp_path, *words, model=NET, output="build"):
    """The message for a compilation that must leave nothing behind, neither files nor folders."""
    path = write(tmp_path, model)
    before = snapshot(tmp_path)
    text = refused("compile", path, *words, "-o", tmp_path / output)
    assert snapshot(tmp_path) == before
    return text


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ("4x", "not a grid"),
        ("", "not a grid"),
        ("2 x 2", "not a grid"),
        ("-2", "not a grid"),
        ("data=4,2", "'2' is no part of it"),
        ("0x2", "an axis has no rank"),
        ("data=4,data=2", "an axis name is used twice"),
        ("grid=2", "an axis name is taken"),
        ("4096x4096", "too many ranks"),
        ("9" * 5000, "too many ranks"),
    ],
)
def test_bad_grids(tmp_path, grid, said):
    text = compile_refused(tmp_path, f"--grid={grid}")
    assert text.startswith(f"autopar: grid {grid!r}: ")
    assert said in text


def test_names_taken_by_programs_are_those_that_a_program_defines(tmp_path):
    done("compile", write(tmp_path), "--grid", "2", "-o", tmp_path / "build")
    text = (tmp_path / "build" / "program.py").read_text() + "\nimport torch.nn.functional as F"
    defined = set(re.findall(r"^([A-Z]+) = ", text, re.MULTILINE)) | set(
        re.findall(r" as ([A-Z]+)$", text, re.MULTILINE)
    )
    assert defined == {"GRID", "INPUTS", "PARAMETERS", "PROGRAM", "F"}
    for name in defined:
        with pytest.raises(autopar.errors.ConfigError, match="is taken"):
            GridShape.parse(f"{name.lower()}=2")


def test_unknown_machine(tmp_path):
    text = compile_refused(tmp_path, "--grid", "2", "--machine", "cpuu")
    assert "did you mean 'cpu'?" in text
    assert all(name in text for name in shipped())
    assert "No such file" in compile_refused(tmp_path, "--grid", "2", "--machine", tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("\nlaunch_floor", "\nlaunch_flor", "- launch_flor: unknown; did you mean 'launch_floor'?"),
        ("beta = ", "beta = -", "- intra.beta: -"),
        ('name = "cpu"', "name = = 3", "not TOML"),
    ],
)
def test_bad_machine_files(tmp_path, old, new, said):
    assert old in CPU
    (tmp_path / "mine.toml").write_text(CPU.replace(old, new))
    assert said in compile_refused(tmp_path, "--grid", "2", "--machine", tmp_path / "mine.toml")


BRANCH = "        h = F.relu(self.fc1(x))\n        if h.sum() > 0:\n            h = -h"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("def model(", "def modell(", "net.py: it does not define model; did you mean 'modell'?"),
        ("def example_inputs", "def example_input", "it does not define example_inputs; did you mean 'example_input'?"),
        ("    return Net()", "    return Nett()", "net.py:18: `return Nett()`: the model cannot be made: NameError"),
        ("    return Net()", "    return 3", "net: the function returned int"),
        (
            "import torch\n",
            "import torch\n1 / 0\n",
            "net.py:2: `1 / 0`: the file stops while it is loaded: ZeroDivisionError",
        ),
        ("import torch\n", "import torch\nx = = 3\n", "net.py:2: `x = = 3`"),
        (
            "        h = F.relu(self.fc1(x))",
            BRANCH,
            "net.py:14: `if h.sum() > 0:`: forward depends on the values of a tensor",
        ),
        ("return F.mse_loss(self.fc2(h), y)", "return self.fc2(h)", "loss of net: no output is a scalar"),
        ('"y": torch', '"z": torch', "- z: forward has no such argument"),
        ('"x": torch.zeros(8, 64)', '"x": torch.zeros(8, 63)', "net.py:13: `h = F.relu(self.fc1(x))`: forward stops"),
    ],
)
def test_bad_model_files(tmp_path, old, new, said):
    assert old in NET
    assert said in compile_refused(tmp_path, "--grid", "2", model=NET.replace(old, new))


def test_missing_model_files(tmp_path, model):
    assert "did you mean 'net.py'?" in refused("compile", tmp_path / "nett.py", "--grid", "2")
    assert "it is a folder" in refused("compile", tmp_path, "--grid", "2")
    assert "it does not define Nett; did you mean 'Net'?" in refused("compile", f"{model}:Nett", "--grid", "2")


def test_unknown_output_as_loss(tmp_path):
    assert "there is no output 'lost'; did you mean 'loss'?" in compile_refused(
        tmp_path, "--grid", "2", "--loss", "lost", model=BLOCKS
    )


def test_memory_that_is_no_size(tmp_path):
    assert "size 'lots': not a number of bytes" in compile_refused(tmp_path, "--grid", "2", "--memory", "lots")
    assert "size '-4GiB'" in compile_refused(tmp_path, "--grid", "2", "--memory=-4GiB")


def test_memory_limit_that_cannot_be_met_says_what_would_do(tmp_path):
    text = compile_refused(tmp_path, "--grid", "2", "--memory", "100KiB")
    found = re.search(r"needs ([\d.]+) KiB per rank, ([\d.]+) KiB more", text)
    assert found, text
    assert float(found[1]) - float(found[2]) == pytest.approx(100)
    enough = re.search(r"raise --memory to (\S+),", text)[1]
    less = f"{float(enough.removesuffix('KiB')) * 0.99:.2f}KiB"
    assert enough in compile_refused(tmp_path, "--grid", "2", "--memory", less)
    done("compile", tmp_path / "net.py", "--grid", "2", "--memory", enough, "-o", tmp_path / "build")
    assert autopar.load_plan(tmp_path / "build").predicted.bytes <= float(enough.removesuffix("KiB")) * 1024
    assert (
        "sgd"
        not in compile_refused(tmp_path, "--grid", "2", "--memory", "1B", "--optimizer", "sgd", output="other").split(
            "fix:"
        )[1]
    )


@pytest.mark.parametrize(
    ("pins", "said"),
    [
        (["fc1"], "pin 'fc1': not a pin"),
        ([": n@axis0"], "not a pin"),
        (["fc1: n@"], "unknown axis ''"),
        (["fc1: n@axs0"], "unknown axis 'axs0'; did you mean 'axis0'?"),
        (["fc9: n@axis0"], "matches no module or call; did you mean 'fc"),
        (["fc1: q@axis0"], "- fc1: b0 (8), k (64), n (256); b* k, n k, n? -> b* n"),
        (["fc1: q@axis0"], "h = F.relu(self.fc1(x))`: no call there has the letter 'q'"),
        (["fc1: b@axis0"], "did you mean 'b0'?"),
        (["fc1: n@axis0", "fc?: k@axis0"], "contradict each other"),
        (["fc1: copied@axis0"], "the call cannot do what is pinned"),
    ],
)
def test_bad_pins(tmp_path, pins, said):
    assert said in compile_refused(tmp_path, "--grid", "2", *(word for pin in pins for word in ("--pin", pin)))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ban", "fc1"], "ban 'fc1': not a ban"),
        (["--ban", "fc9: n@*"], "ban 'fc9': matches no module or call; did you mean 'fc"),
        (["--ban", "fc1.wieght: shard@*"], "matches no parameter or input; did you mean 'fc1.weight'?"),
        (["--ban", "fc*: n@*", "--pin", "fc1: n@axis0"], "pin 'fc1': n@axis0 against ban 'fc*': n@axis0"),
        (
            [
                "--ban",
                "fc1: b0@*",
                "--ban",
                "fc1: n@*",
                "--ban",
                "fc1: k@*",
                "--ban",
                "fc1: whole@*",
                "--ban",
                "fc1: linear@*",
            ],
            "nothing left to do",
        ),
    ],
)
def test_bad_bans(tmp_path, words, said):
    assert said in compile_refused(tmp_path, "--grid", "2", *words)


def test_output_that_is_a_file(tmp_path):
    assert "net.py is a file" in compile_refused(tmp_path, "--grid", "2", output="net.py")
    assert "net.py is a file" in compile_refused(tmp_path, "--grid", "2", output="net.py/build")


def test_unwritable_output_is_refused_before_the_work(tmp_path, monkeypatch):
    def denied(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    monkeypatch.setattr("autopar.compiler.compile", None)
    assert "nothing can be written there: [Errno 13] Permission denied" in compile_refused(
        tmp_path, "--grid", "2", output="new/build"
    )


def test_failed_compilation_leaves_an_older_one_alone(tmp_path, model):
    done("compile", model, "--grid", "2", "-o", tmp_path / "build")
    before = snapshot(tmp_path)
    refused("compile", model, "--grid", "2x2", "--memory", "1KiB", "-o", tmp_path / "build")
    assert snapshot(tmp_path) == before


def test_same_input_same_bytes(tmp_path, model):
    done("compile", model, "--grid", "2", "-o", tmp_path / "build")
    first = snapshot(tmp_path / "build")
    done("compile", model, "--grid", "2", "-o", tmp_path / "build")
    assert snapshot(tmp_path / "build") == first
