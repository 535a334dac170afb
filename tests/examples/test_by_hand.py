"""Networks written by hand on the primitives: the examples, and the code in docs/primitives.md."""

import importlib.util
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autopar import runtime
from autopar.runtime import default_world, simulate

ROOT = Path(__file__).resolve().parents[2]


def example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_linear_layer():
    assert max(simulate(4, example("by_hand").layer)) < 1e-12


def test_lenet5_in_simulated_ranks():
    """Two steps of Adam in float64, from equal parameters."""
    lenet5 = example("lenet5")
    torch.manual_seed(0)
    twin, start = (lenet5.LeNet5().double() for _ in range(2))
    start.load_state_dict(twin.state_dict())
    (images, labels), _ = lenet5.data(0)
    images, labels = images[:64].double(), labels[:64]

    def rank_main():
        net = lenet5.DistributedLeNet5(default_world(), start)
        lenet5.train(net, net.loss, images, labels, 0, 2)
        return net.whole(), [tuple(one.shape) for one in net.parameters()]

    results = simulate(4, rank_main)
    lenet5.train(twin, twin, images, labels, 0, 2)
    assert lenet5.difference(results[0][0], twin) < 1e-12
    assert lenet5.difference(results[0][0], start) > 1e-3
    shapes = [shapes for _, shapes in results]  # those of the paper's four workers
    assert shapes[0] == [(6, 1, 5, 5), (6,), (16, 6, 5, 5), (16,), (60, 200), (60,), (42, 60), (42,), (5, 42), (5,)]
    assert shapes[1] == shapes[3] == [(0,)] * 4 + [(60, 200), (0,), (42, 60), (0,), (5, 42), (0,)]
    assert shapes[2] == [(0,)] * 4 + [(60, 200), (60,), (42, 60), (42,), (5, 42), (5,)]


@pytest.mark.spmd
@pytest.mark.zoo
def test_lenet5_on_four_ranks_by_hand_and_compiled():
    """The benchmark's shortest run: three batches on MPI, in float64 beside one process, and a trial in float32."""
    command = [sys.executable, "-m", "benchmarks.lenet5", "--small", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads(done.stdout)
    assert record["hand"]["difference"] < 1e-10
    assert record["compiled"]["difference"] < 1e-10
    for setup in ("hand", "compiled"):  # in float32 a digit or two may be read otherwise
        assert record[setup]["accuracy"] == pytest.approx(record["sequential"]["accuracy"], abs=0.01)


SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "primitives.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippets_of_the_documentation(number):
    """Each runs by itself on four simulated ranks, and asserts what it shows."""
    code = compile(SNIPPETS[number], f"docs/primitives.md, snippet {number}", "exec")
    assert "assert " in SNIPPETS[number]
    simulate(4, lambda: exec(code, {}))


def test_the_table_of_the_documentation_has_every_primitive():
    text = (ROOT / "docs" / "primitives.md").read_text()
    folders = ("autopar.runtime.primitives.", "autopar.runtime.partitions.")
    exported = [getattr(runtime, name) for name in runtime.__all__]
    names = [one.__name__ for one in exported if inspect.isfunction(one) and one.__module__.startswith(folders)]
    assert len(names) > 15
    assert not [name for name in names if f"| `{name}" not in text]
