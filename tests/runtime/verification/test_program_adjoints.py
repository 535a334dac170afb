"""What a program communicates, recorded line by line, and put to the adjoint test at its own shapes."""

import runpy
import sys

import pytest
import torch

from autopar.errors import CommError
from autopar.runtime import Grid, simulate
from autopar.runtime.verification.adjoint_test import TOLERANCE
from autopar.runtime.verification.program_adjoints import Communication, examine, lines
from autopar.runtime.verification.recorded_calls import CallRecorder, CommunicationCall

PROGRAM = """\
import torch
from autopar.runtime import Shard, all_gather, all_sum, all_to_all, batch_norm, conv, copy as c, cross_entropy, max_pool


def block(x, w, axis):
    x = conv(x, w, padding=1, over={2: (axis, 9)})
    return max_pool(x, (2, 2), over={2: (axis, 9)})


def forward(x, w, labels, data, space):
    for _ in range(2):
        y = block(x, c(w, data), space)
    y = batch_norm(y, None, None, None, None, over=(data, space))
    y = all_to_all(y, space, Shard(2), Shard(1), 4)
    y = all_gather(y, 1, space, 2)
    return all_sum(cross_entropy(y.flatten(1), labels, (data,)), data)
"""

# line, primitive in function, axes; sizes are those of rank 0 of 2x2
CALLS = [
    (6, "halo in conv", "axis1", (3, 2, 5, 6)),
    (7, "halo in max_pool", "axis1", (3, 2, 5, 6)),
    (12, "copy", "axis0", (2, 2, 3, 3)),
    (13, "all_gather in batch_norm", "axis0", (5,)),
    (13, "all_gather in batch_norm", "axis1", (5,)),
    (14, "all_to_all", "axis1", (3, 2, 2, 3)),
    (15, "all_gather", "axis1", (3, 1, 4, 3)),
    (16, "all_reduce in cross_entropy", "axis0", ()),
    (16, "all_sum", "axis0", ()),
    (0, "all_reduce in batch_norm", "axis0", (2, 2)),
    (0, "all_reduce in batch_norm", "axis1", (2, 2)),
]


def record(path, shape="2x2", change=None):
    """A step of the program on simulated ranks: what `examine` finds, and the recorded calls, of every rank."""

    def rank_main():
        grid = Grid(shape)
        data, space = grid.axes
        forward = runpy.run_path(str(path))["forward"]
        x = torch.ones(data.part(6), 2, space.part(9), 6, dtype=torch.float64)
        w = torch.ones(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
        labels = torch.zeros(data.part(6), dtype=torch.int64)
        with CallRecorder(str(path)) as ahead:
            loss = forward(x, w, labels, data, space)
        with CallRecorder() as back:
            loss.backward()
        calls = [*ahead.calls, *back.calls]
        return examine(grid, change(calls, grid) if change else calls, 0), calls

    return simulate(grid_size(shape), rank_main)


def grid_size(shape):
    a, b = map(int, shape.split("x"))
    return a * b


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


@pytest.mark.parametrize("checked", ["0", "1"])
def test_every_communication_is_found_and_passes(program, checked, monkeypatch):
    """Watched communicators, which hand their calls on to others, add nothing."""
    monkeypatch.setenv("AUTOPAR_CHECK", checked)
    results = record(program)
    found, calls = results[0]
    assert all(one == found for one, _ in results)
    assert all(one.relative <= TOLERANCE for one in found)
    shapes = {(one.line, one.inside, one.primitive): one.shape for one in calls}
    said = [(one.line, f"{one.primitive}{f' in {one.inside}' if one.inside else ''}", one.axis) for one in found]
    assert sorted(said) == sorted(one[:3] for one in CALLS)
    for line, name, _, shape in CALLS:
        primitive, _, inside = name.partition(" in ")
        assert shapes[line, inside, primitive] == shape
    assert [one.line for one in found] == [*sorted(one.line for one in found if one.line), 0, 0]
    assert len([one for one in calls if one.primitive == "copy"]) == 2  # the loop has run twice, and is tested once


def test_axes_of_one_rank_send_nothing(program):
    found, _ = record(program, "3x1")[0]
    assert {one.axis for one in found} == {"axis0"}
    assert record(program, "1x1")[0] == ([], [])


def test_nothing_is_recorded_outside():
    """Neither what the session says to keep the ranks in step, nor what another thread does."""

    def rank_main():
        grid = Grid("2")
        with CallRecorder("program.py") as recorder:
            grid.comm.all_reduce(torch.ones(1))
        return recorder.calls

    assert simulate(2, rank_main) == [[], []]


def test_a_wrong_adjoint_is_found_on_its_line(program):
    def spoil(calls, grid):
        return [_halved(call) if call.line == 14 and grid.position[0] == 1 else call for call in calls]

    for found, _ in record(program, change=spoil):
        wrong = [one for one in found if not one.relative <= TOLERANCE]
        assert [one.name for one in wrong] == ["line 14: all_to_all over axis1"]
        assert lines(found, 2)[0].startswith("FAILS")
        assert lines(found, 2)[2].split()[:3] == ["14", "all_to_all", "axis1"]


def _halved(call):
    def operator(x):
        y, pull = call.operator(x)
        return y, lambda grad: pull(grad) / 2

    return CommunicationCall(call.line, call.inside, call.primitive, call.detail, call.shape, operator, call.source, call.target,
                call.comm)  # fmt: skip


def test_ranks_that_call_different_primitives_are_refused(program):
    def skip(calls, grid):
        return [call for call in calls if call.line != 14 or grid.rank != 3]

    with pytest.raises(CommError, match=r"(?s)call 6 over axis1.*rank 0 of the axis: all_to_all in line 14"):
        record(program, change=skip)


def test_the_recorder_leaves_other_profilers_in_place():
    seen = []

    def profiler(frame, event, argument):
        seen.append(event)

    sys.setprofile(profiler)
    try:
        with CallRecorder():
            pass
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)


def test_the_table_shows_the_worst_lines():
    some = [Communication(n, "conv" if n else "", "halo", "space", (2, n), n * 1e-17) for n in range(9)]
    shown = lines(some, 3)
    assert shown[0].endswith("8.0e-17 of 1e-12 allowed  in 9 communications of a step")
    assert [row.split()[0] for row in shown[1:]] == ["line", "8", "7", "6"]
    assert len(lines(some, None)) == 11
    assert lines(some, None)[2].split() == ["backward", "halo", "space", "2x0", "0.0e+00"]
    assert len({len(row) for row in lines(some, None)[1:]}) <= 2
    assert lines([], 3) == ["ok     adjoint test                 nothing is communicated"]
