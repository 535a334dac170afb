"""What a rank reads of a batch is what it would be given of the whole batch, however axes are cut."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.errors import ConfigError
from autopar.ir.layout import Replicate, Shard
from autopar.runtime.data.input_part import input_part
from autopar.runtime.data.own_batches import own_batches
from autopar.runtime.grid.planned_axis import PlannedAxis
from autopar.runtime.pipeline.microbatches import microbatches_of, own_input_parts, whole_input_parts
from autopar.runtime.program.plan_reader import Description, MicrobatchPlan, TensorSpec


def described(shape, microbatches=1):
    image = TensorSpec("image", shape, torch.float32, "input")
    weight = TensorSpec("weight", (6,), torch.int64, "input")
    division = MicrobatchPlan(microbatches, shape[0]) if microbatches > 1 else None
    return Description("net", "2", (image, weight), (), rows=shape[0], batched=("image",), division=division)


@st.composite
def divided(draw):
    """A batch of some rows, its micro-batches, and how its dims are cut from a position of every axis."""
    rows, channels, width = draw(st.integers(3, 9)), 2 * draw(st.integers(1, 3)), draw(st.integers(1, 7))
    layout = st.sampled_from([Replicate(), Shard(0), Shard(1), Shard(1, 2), Shard(2)])
    layouts = draw(st.lists(layout, min_size=1, max_size=2))
    if len({one.dim if isinstance(one, Shard) else None for one in layouts}) < len(layouts):
        layouts = layouts[:1]
    axes = []
    for i in range(len(layouts)):
        size = draw(st.integers(1, 3))
        inner = sorted(draw(st.lists(st.floats(0, 1), min_size=size - 1, max_size=size - 1)))
        cuts = draw(st.sampled_from([None, (0.0, *inner, 1.0)]))
        axes.append(PlannedAxis(f"axis{i}", size, draw(st.integers(0, size - 1)), cuts))
    return (rows, channels, width), layouts, axes, draw(st.integers(1, 3)), draw(st.integers(3, 9))


@settings(max_examples=150, deadline=None)
@given(divided())
def test_a_rank_reads_what_it_would_be_given_of_the_whole(case):
    shape, layouts, axes, microbatches, rows = case
    about = described(shape, microbatches)
    table = {"image": layouts, "weight": [Replicate() for _ in axes]}
    part = pickle.loads(pickle.dumps(input_part([(about, table)], axes))).of(rows)
    whole = torch.arange(rows * shape[1] * shape[2], dtype=torch.float32).view(rows, *shape[1:])
    assert part.whole_shape("image") == tuple(whole.shape)
    mine = part.slice("image", whole)
    assert tuple(mine.shape) == part.shape("image")
    every = microbatches_of(about.microbatches(rows))
    shapes = {item.name: item.shape for item in about.inputs}
    own = own_input_parts({"image": mine}, shapes, ("image",), every, table, axes)
    for one, found in zip(every, own, strict=True):
        expected = whole_input_parts({"image": whole}, ("image",), one, table, axes)["image"]
        torch.testing.assert_close(found["image"], expected, rtol=0, atol=0)
    for at, row in enumerate(part.samples("image")):
        torch.testing.assert_close(part.slice("image", whole[row]), mine[at], rtol=0, atol=0)
    longer = torch.cat([torch.zeros(2, *shape[1:]), whole, whole]).double().numpy()
    torch.testing.assert_close(part.slice("image", longer, first=2), mine, rtol=0, atol=0)


def test_what_files_give_is_read_by_slices_only(tmp_path):
    axes = [PlannedAxis("x", 3, 1, None)]
    part = input_part([(described((1, 4, 9)), {"image": [Shard(2)], "weight": [Shard(0)]})], axes)
    image = np.lib.format.open_memmap(tmp_path / "image.npy", "w+", ">i2", (4, 9))
    image[:] = np.arange(36).reshape(4, 9)
    image.flush()
    read = []

    class Source:
        shape = (4, 9)

        def __getitem__(self, index):
            read.append(index)
            return np.load(tmp_path / "image.npy", mmap_mode="r")[index]

    found = part.slice("image", Source())
    assert read == [(slice(0, 4), slice(3, 6))]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.arange(36.0).view(4, 9)[:, 3:6], rtol=0, atol=0)
    assert part.slice("weight", torch.arange(6)).tolist() == [2, 3]


@pytest.mark.parametrize("shape", [(4, 9), (2, 3, 8), (1, 3, 9), (5, 2, 3, 9)])
def test_a_source_of_other_extents(shape):
    part = input_part([(described((2, 3, 9)), {})], ())
    with pytest.raises(ConfigError, match="of the whole image"):
        part.slice("image", torch.zeros(shape))


def test_another_name():
    with pytest.raises(ConfigError, match="did you mean 'image'"):
        input_part([(described((2, 3, 9)), {})], ()).rows("imgae")


def test_where_boundaries_move_reading_goes_on_with_the_next_batch():
    first = input_part([(described((2, 3, 9)), {})], [PlannedAxis("x", 2, 0, None)])
    parts, asked = [first], []

    def batches(part):
        asked.append((part.axes[0].cuts, part.epoch, part.start))
        for step in range(part.start, 3):
            yield part.epoch, step, part.axes[0].cuts

    found, moves = [], {1: (0.0, 0.3, 1.0), 4: (0.0, 0.4, 1.0), 5: (0.0, 0.2, 1.0)}
    source = own_batches(batches, lambda: parts[-1], "model.py")
    for step in range(8):
        found.append(next(source))
        if step in moves:
            parts.append(replace(first, axes=(PlannedAxis("x", 2, 0, moves[step]),)))
    cuts = [None, None, *[(0.0, 0.3, 1.0)] * 3, (0.0, 0.4, 1.0), *[(0.0, 0.2, 1.0)] * 2]
    assert found == [(step // 3, step % 3, cuts[step]) for step in range(8)]
    assert len(asked) == 6
    with pytest.raises(ConfigError, match="yields nothing"):
        next(own_batches(lambda part: iter(()), lambda: first, "model.py"))
