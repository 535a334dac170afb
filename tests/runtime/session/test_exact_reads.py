"""Of a checkpoint a rank reads what it holds, and no more than what lies in the same pages: bytes are counted."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_checkpoints import optimizer_of, steps
from test_parallel_module import parallel, size

from autopar.runtime import simulate
from autopar.runtime.checkpoint import slices
from autopar.runtime.checkpoint.safetensors_stream import TensorToWrite, write
from autopar.runtime.checkpoint.slices import ShardFile
from autopar.runtime.parameters.moving.regions import Region


@st.composite
def regions(draw):
    """A shape, and rows of each of its dims."""
    shape = draw(st.lists(st.integers(1, 7), max_size=4))
    chosen = []
    for extent in shape:
        rows = sorted(draw(st.sets(st.integers(0, extent - 1), min_size=1)))
        runs = []
        for row in rows:
            if runs and runs[-1][1] == row:
                runs[-1] = (runs[-1][0], row + 1)
            else:
                runs.append((row, row + 1))
        chosen.append(tuple(runs))
    return shape, Region(tuple(chosen)), draw(st.sampled_from([8, 40, 1 << 20])), draw(st.sampled_from([1, 16, 4096]))


@settings(max_examples=80, deadline=None)
@given(regions())
def test_any_region_is_read_as_it_is(tmp_path_factory, case):
    shape, region, piece, page = case
    path = tmp_path_factory.mktemp("file") / "x.safetensors"
    whole = torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)
    write(path, [TensorToWrite("x", tuple(shape), whole.dtype, lambda: [whole])], {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "PIECE", piece)
        patch.setattr(slices, "_PAGE", page)
        file = ShardFile(path)
        assert torch.equal(file.tensor("x").read(region), region.take(whole))
        assert file.bytes <= whole.nbytes


@pytest.mark.parametrize(("kind", "grid", "other"), [("mlp", "2x1", "1x4"), ("tied", "2x2", "3")])
def test_no_rank_reads_more_than_it_holds(tmp_path, monkeypatch, kind, grid, other):
    monkeypatch.setattr(slices, "_PAGE", 1)
    opened = []
    making = ShardFile.__init__
    monkeypatch.setattr(ShardFile, "__init__", lambda file, path: opened.append(file) or making(file, path))

    def first():
        model, inputs = parallel(kind, grid)
        optimizer = optimizer_of(model)
        steps(model, optimizer, inputs, range(1))
        model.save(tmp_path, optimizer)

    def second():
        model, _ = parallel(kind, other)
        optimizer = optimizer_of(model)
        model.load(tmp_path, optimizer)
        kept = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
        return sum(one.nbytes for one in [*model.parameters(), *model.buffers(), *kept])

    simulate(size(grid), first)
    held = simulate(size(other), second)
    generators = size(other) * torch.get_rng_state().nbytes
    assert sum(file.bytes for file in opened) == sum(held) + generators
