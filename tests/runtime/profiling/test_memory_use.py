import json
import pickle

import memory_ranks
import pytest
import torch
import torch.nn.functional as F
from spmd import mpiexec
from warm_ranks import python

import autopar
from autopar.ir.plan_file import to_json
from autopar.runtime.profiling.memory_use import memory_use

SIZE = 256 * 256 * 4


def test_what_a_step_holds():
    x, w = torch.randn(256, 256), torch.randn(256, 256, requires_grad=True)
    with memory_use() as used:
        y = F.relu(x @ w)  # two tensors, of which the product is freed
        del y
    assert [round((one.nbytes - used.before) / SIZE) for one in used.timeline] == [1, 2, 1, 0]
    assert used.peak == used.before + 2 * SIZE
    assert used.peak_during == "relu"
    assert used.timeline[0].during == "matmul"
    assert used.timeline[-1].during == ""
    assert all(one.seconds >= 0 for one in used.timeline)


def test_backward_is_followed_too():
    x, w = torch.randn(256, 256), torch.randn(256, 256, requires_grad=True)
    with memory_use() as used:
        F.relu(x @ w).sum().backward()
    assert used.timeline[-1].nbytes == used.before + w.grad.nbytes
    assert used.peak_during == "ReluBackward0"  # its output, and the gradient that it makes
    assert round((used.peak - used.before) / SIZE) == 2


def test_what_was_held_before_counts_once_and_until_it_is_freed():
    with memory_use() as nothing:
        pass
    kept = torch.zeros(1000, 1000)
    view, kept.grad = kept[5:], torch.ones(1000, 1000)
    with memory_use() as used:
        kept.grad = None
        view = view[1:]
        more = torch.zeros(500, 1000)
        kept = view.sum()
    assert used.before - nothing.before == 8_000_000
    assert used.peak == used.before
    assert used.peak_during == ""
    assert used.timeline[-1].nbytes == nothing.before + 6_000_000 + 4
    assert more.nbytes == 2_000_000


def test_what_the_collector_was_told_to_keep_counts_too_and_nothing_is_written_to_the_terminal():
    code = (
        "import gc, torch; from autopar.runtime.profiling.memory_use import memory_use\n"
        "with memory_use() as used: torch.ones(5)\n"
        "print(used.peak - used.before)\n"
        "kept = torch.zeros(1000, 1000); gc.freeze()\n"
        "with memory_use() as used: pass\n"
        "print(used.before >= 4_000_000, gc.get_freeze_count() > 0)"
    )
    done = python(code)
    peak, *frozen = done.stdout.split()
    assert int(peak) >= 20
    assert frozen == ["True", "True"]
    assert done.stderr == ""


@pytest.mark.zoo
@pytest.mark.spmd
def test_two_ranks_hold_what_their_plans_predict(tmp_path):
    compiled = tmp_path / "compiled"
    compiled.write_bytes(pickle.dumps({name: of_two(*case) for name, case in memory_ranks.CASES.items()}))
    done = mpiexec(2, [memory_ranks.__file__, compiled])
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert list(found) == ["mlp", "whole mlp", "gpt", "images"]
    for predicted, measured, said, ran in found.values():
        assert predicted == pytest.approx(measured, rel=0.1), (said, ran)


def of_two(build, inputs, options):
    """Program and plan of a model for two ranks; the bytes predicted at the peak, and what then runs."""
    one = autopar.compile(build, inputs(), grid="2", **options)
    return one.source, to_json(one.plan), (one.plan.predicted.bytes, one.plan.predicted.peak_during)
