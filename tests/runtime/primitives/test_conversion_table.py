"""Every conversion against whole tensors: values, gradients by the duality of layouts, and the adjoint identity."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import CELLS, Place, assemble, convert, layout_of, scatter

from autopar.errors import ProgramMismatch
from autopar.ir.layout import Layout, Partial, Replicate, Shard, dual
from autopar.runtime import (
    Grid,
    all_sum,
    copy,
    gather,
    keep,
    once,
    reduce_scatter,
    simulate,
    split,
)


@st.composite
def shards(draw, ndim):
    return Shard(draw(st.integers(0, ndim - 1)), draw(st.integers(1, 3)), draw(st.integers(1, 3)))


@st.composite
def cases(draw):
    """Ranks, cuts, source and target shard, whole shape: extents are uneven, smaller than the axis, or 0."""
    ranks = draw(st.integers(1, 6))
    source, target = draw(shards(3)), draw(shards(3))
    shape = []
    for dim in range(3):
        readings = [s.blocks * s.unit for s in (source, target) if s.dim == dim]
        multiple = torch.tensor([1, *readings]).prod().item()
        shape.append(multiple * draw(st.integers(0, 8 if multiple < 9 else 2)))
    cuts = None
    if draw(st.booleans()):
        inner = sorted(draw(st.lists(st.floats(0, 1), min_size=ranks - 1, max_size=ranks - 1)))
        cuts = (0.0, *inner, 1.0)
    return ranks, cuts, source, target, tuple(shape)


def run(ranks, cuts, source, target, shape, dtype=torch.float64):
    """Everything about one conversion: per rank (x, y, dy, dx), and the whole x and dy."""
    generator = torch.Generator().manual_seed(3)
    whole, dwhole = (torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))

    def rank_main():
        axis = Grid(str(ranks)).axes[0]
        axis.move(cuts)
        extent = shape[source.dim] if isinstance(source, Shard) else 0
        x = scatter(whole, source, axis)[axis.index].requires_grad_()
        before = x.detach().clone()
        y = convert(x, source, target, axis, extent)
        dy = scatter(dwhole, dual(target), axis)[axis.index]
        (dx,) = torch.autograd.grad(y, x, dy)
        assert torch.equal(x, before), "the input was modified"
        return Place.of(axis), x.detach(), y.detach(), dy, dx

    return whole, dwhole, simulate(ranks, rank_main)


def pairing(xs: list[torch.Tensor], ys: list[torch.Tensor], layout: Layout) -> float:
    """The inner product, over the memory of all ranks, of tensors in `layout` and in its dual; replicas count once."""
    counted = 1 if isinstance(layout, Replicate) else len(xs)
    return sum((x * y).sum().item() for x, y in zip(xs[:counted], ys[:counted], strict=True))


def norm(xs: list[torch.Tensor]) -> float:
    return sum((x * x).sum().item() for x in xs) ** 0.5


@pytest.mark.parametrize(("source", "target"), CELLS)
@settings(deadline=None, max_examples=40)
@given(case=cases())
def test_cell_of_the_table(source, target, case):
    """Forward keeps the whole tensor, backward keeps the whole gradient in the dual layout, and <Fx, y> = <x, F*y>."""
    ranks, cuts, first, second, shape = case
    a, b = layout_of(source, first), layout_of(target, second if source == "shard" else first)
    whole, dwhole, results = run(ranks, cuts, a, b, shape)
    axis = results[0][0]
    xs, ys, dys, dxs = ([result[i] for result in results] for i in range(1, 5))
    extents = [shape[s.dim] if isinstance(s, Shard) else None for s in (a, b)]
    torch.testing.assert_close(assemble(ys, b, axis, extents[1]), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(assemble(dxs, dual(a), axis, extents[0]), dwhole, rtol=1e-12, atol=1e-12)
    gap = abs(pairing(ys, dys, b) - pairing(xs, dxs, a))
    assert gap <= 1e-12 * max(norm(ys) * norm(dys), norm(xs) * norm(dxs))


def test_blocks_and_unit_cut_the_middle():
    def rank_main():
        axis = Grid("2").axes[0]
        return split(torch.arange(12), 0, axis, blocks=2, unit=2).tolist()  # 12 as 2 x 3 x 2, 3 cut into 2 and 1

    assert simulate(2, rank_main) == [[0, 1, 2, 3, 6, 7, 8, 9], [4, 5, 10, 11]]


def test_keep_and_once_count_on_the_first_rank():
    def rank_main():
        axis = Grid("3").axes[0]
        x = torch.ones(1, requires_grad=True)
        once(x, axis).sum().backward()
        return keep(x, axis).item(), x.grad.item()

    assert simulate(3, rank_main) == [(1, 1), (0, 0), (0, 0)]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
@pytest.mark.parametrize(("source", "target"), CELLS)
def test_integers_and_booleans(source, target, dtype):
    """Types without gradient go through every conversion. (A sum of booleans is "any".)"""
    shape = (4, 7)
    whole = (torch.arange(28).reshape(shape) % 3).to(dtype)
    a, b = layout_of(source, Shard(0)), layout_of(target, Shard(1) if source == "shard" else Shard(0))

    def rank_main():
        axis = Grid("3").axes[0]
        if isinstance(a, Partial):
            x = whole if axis.index == 1 else torch.zeros_like(whole)
        else:
            x = scatter(whole, a, axis)[axis.index]
        y = convert(x, a, b, axis, 4)
        assert y.dtype == dtype
        if isinstance(b, Partial):
            return (y.int() if dtype == torch.bool else y), Place.of(axis)
        return y, Place.of(axis)

    results = simulate(3, rank_main)
    parts = [part for part, _ in results]
    got = assemble(parts, b, results[0][1], shape[b.dim] if isinstance(b, Shard) else None)
    assert torch.equal(got.to(dtype), whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_are_summed_in_float32(dtype):
    """1 + 2^-12, three times, is lost addend by addend in 16 bits, and kept where the sum is rounded once."""
    tiny = torch.full((4,), 2.0**-10, dtype=dtype)

    def rank_main():
        axis = Grid("6").axes[0]
        x = torch.ones(4, dtype=dtype) if axis.index == 0 else tiny
        return all_sum(x, axis), reduce_scatter(torch.cat([x] * 3), 0, axis)

    wanted = torch.tensor(1 + 5 * 2.0**-10).to(dtype)
    for total, part in simulate(6, rank_main):
        assert total.dtype == dtype
        assert (total == wanted).all()
        assert (part == wanted).all()


def test_complex_sum():
    def rank_main():
        axis = Grid("3").axes[0]
        return all_sum(torch.tensor([1 + 2j, 3j], dtype=torch.complex128) * (axis.index + 1), axis)

    for total in simulate(3, rank_main):
        assert total.tolist() == [6 + 12j, 18j]


def test_replicas_are_equal_to_the_bit():
    def rank_main():
        axis = Grid("5").axes[0]
        generator = torch.Generator().manual_seed(axis.index)
        return all_sum(torch.randn(1000, generator=generator) * 10.0 ** (3 * axis.index), axis)

    totals = simulate(5, rank_main)
    assert all(torch.equal(total, totals[0]) for total in totals)


def test_gradient_shared_with_another_consumer_is_not_overwritten():
    """Addition hands one gradient tensor to both operands; summing it in place for one would spoil the other."""

    def rank_main():
        axis = Grid("2").axes[0]
        x, z = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
        (copy(x, axis) + z).sum().backward()
        return x.grad, z.grad

    for dx, dz in simulate(2, rank_main):
        assert dx.tolist() == [2, 2, 2]
        assert dz.tolist() == [1, 1, 1]


def test_expanded_and_transposed_gradients():
    """Gradients come in any memory layout; they are made contiguous before they are sent."""
    x = torch.arange(12.0, dtype=torch.float64).reshape(4, 3)

    def rank_main():
        axis = Grid("2").axes[0]
        a = x.clone().requires_grad_()
        loss = split(copy(a, axis).T, 1, axis).sum() + copy(a, axis).T.matmul(torch.ones(4, 2, dtype=x.dtype)).sum()
        loss.backward()
        return a.grad

    for grad in simulate(2, rank_main):
        assert torch.equal(grad, torch.full((4, 3), 2.0 + 4.0, dtype=x.dtype))


def test_two_axes_split_one_dim():
    """The outer axis first; the inner one cuts what is left and has to be undone first."""
    whole = torch.arange(22.0).reshape(11, 2)

    def rank_main():
        outer, inner_axis = Grid("2x3").axes
        part = split(split(whole, 0, outer), 0, inner_axis)
        back = gather(part, 0, inner_axis, outer.part(11))
        return part.shape[0], gather(back, 0, outer, 11)

    results = simulate(6, rank_main)
    assert [size for size, _ in results] == [2, 2, 2, 2, 2, 1]
    assert all(torch.equal(back, whole) for _, back in results)


def test_a_part_of_the_wrong_size_is_refused():
    def rank_main():
        return gather(torch.ones(3), 0, Grid("2").axes[0], 8)

    with pytest.raises(ProgramMismatch, match="this rank holds 4"):
        simulate(2, rank_main)


def test_an_extent_that_cannot_be_read_is_refused():
    with pytest.raises(ProgramMismatch, match="2 x m x 3"):
        simulate(2, lambda: split(torch.ones(8), 0, Grid("2").axes[0], 2, 3))
