"""The planner against a simulation that holds real arrays on every rank, and against exhaustive search."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.costmodel.collectives import reaches
from autopar.costmodel.communication import price
from autopar.costmodel.local_shapes import compatible, local_shape
from autopar.costmodel.redistribution import conversion_matrix, plain, plan_conversion
from autopar.ir.conversions import primitive_of
from autopar.ir.grid import GridShape
from autopar.ir.layout import Copied, Partial, Replicate, Shard, even_bounds
from autopar.ir.machine import Link, Machine

WHOLE = (Replicate(), Copied(), Partial())
GRIDS = [GridShape.parse(text) for text in ("2", "3", "2x2", "3x2", "2x3", "4x2", "2x1", "2x2x2")]
FAST, SLOW = Link(2e-6, 5e9), Link(1e-5, 1e9)


def profile(intra=FAST, inter=SLOW, node=4, floor=1e-6):
    works = tuple((work, 0.5) for work in ("attention", "conv", "matmul", "memory", "pointwise", "reduce"))
    return Machine("test", node, 2**30, 1e10, floor, 0.0, intra, inter, (("float32", 1e11),), works)


MACHINE = profile()


def readings(shape):
    """Every shard whose reading divides its dim, few enough to meet often."""
    found = []
    for dim, n in enumerate(shape):
        for blocks, unit in ((1, 1), (2, 1), (1, 2), (3, 1), (1, 3), (2, 2), (1, 4), (4, 1)):
            if n % (blocks * unit) == 0:
                found.append(Shard(dim, blocks, unit))
    return found


@st.composite
def problems(draw, grids=GRIDS, differentiable=None, count=2, plain_shards=False):
    """(shape, differentiable, layouts..., grid), all compatible."""
    grid = draw(st.sampled_from(grids))
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 5, 6, 8, 12]), min_size=1, max_size=3)))
    gradient = draw(st.booleans()) if differentiable is None else differentiable
    shards = [one for one in readings(shape) if not plain_shards or (one.blocks, one.unit) == (1, 1)]
    one = st.sampled_from([*(WHOLE if gradient else WHOLE[:2]), *shards, *shards])
    layouts = st.tuples(*(one for _ in grid.sizes)).filter(lambda found: compatible(shape, found, grid))
    return shape, gradient, *(draw(layouts) for _ in range(count)), grid


# ---- the simulation: one array per rank, primitives on local arrays as the runtime defines them


def kept(n, layouts, dim, position, grid):
    """Indices of a dim of extent n that the rank at `position` holds: per factor the digits left after all its cuts."""
    digits = {}
    for layout, index, parts in zip(layouts, position, grid.sizes, strict=True):
        if isinstance(layout, Shard) and layout.dim == dim:
            key = (layout.blocks, layout.unit)
            left = digits.setdefault(key, list(range(n // (layout.blocks * layout.unit))))
            bounds = even_bounds(len(left), parts)
            digits[key] = left[bounds[index] : bounds[index + 1]]
    return [
        i
        for i in range(n)
        if all(i // unit % (n // (blocks * unit)) in left for (blocks, unit), left in digits.items())
    ]


def positions(grid):
    return list(itertools.product(*(range(size) for size in grid.sizes)))


def held(tensor, layouts, grid, addends):
    """What each rank holds; the addends of a Partial sum to the tensor over every Partial axis."""
    found = {}
    partial = [axis for axis, layout in enumerate(layouts) if isinstance(layout, Partial)]
    for position in positions(grid):
        local = tensor
        for dim, n in enumerate(tensor.shape):
            local = np.take(local, kept(n, layouts, dim, position, grid), axis=dim)
        first = all(position[axis] == 0 for axis in partial)
        if partial:
            extra = [
                addends[tuple(position[a] for a in partial)],
                -addends[tuple((position[a] + 1) % grid.sizes[a] for a in partial)],
            ]
            local = (local if first else 0 * local) + sum(extra)
        found[position] = local
    return found


def pieces(array, shard, reading, parts):
    """The parts of a local array, its dim read as local blocks and unit."""
    blocks, unit = reading
    n = array.shape[shard.dim]
    m = n // (blocks * unit) if blocks * unit else 0
    before, behind = array.shape[: shard.dim], array.shape[shard.dim + 1 :]
    whole = array.reshape(*before, blocks, m, unit, *behind)
    bounds = even_bounds(m, parts)
    found = []
    for i in range(parts):
        part = np.take(whole, range(bounds[i], bounds[i + 1]), axis=shard.dim + 1)
        found.append(part.reshape(*before, blocks * (bounds[i + 1] - bounds[i]) * unit, *behind))
    return found


def joined(parts, shard, reading):
    blocks, unit = reading
    if not blocks * unit:
        return parts[0]
    split = [
        part.reshape(
            *part.shape[: shard.dim],
            blocks,
            part.shape[shard.dim] // (blocks * unit),
            unit,
            *part.shape[shard.dim + 1 :],
        )
        for part in parts
    ]
    whole = np.concatenate(split, axis=shard.dim + 1)
    return whole.reshape(
        *whole.shape[: shard.dim], blocks * whole.shape[shard.dim + 1] * unit, *whole.shape[shard.dim + 3 :]
    )


def local_reading(shape, layouts, axis, shard, position, grid):
    """Local blocks and unit of `shard` on `axis`: the digits left and right of its factor that the other axes leave."""
    others = [layout if i != axis else Replicate() for i, layout in enumerate(layouts)]
    left = kept(shape[shard.dim], others, shard.dim, position, grid)
    m = shape[shard.dim] // (shard.blocks * shard.unit)
    return len({i // (shard.unit * m) for i in left}), len({i % shard.unit for i in left})


def advanced(step, state, shape, grid):
    """The ranks' arrays after one step, computed from those before it only."""
    before, after = step.before[step.axis], step.after[step.axis]
    found = {}
    for position in positions(grid):
        group = [
            tuple(i if a == step.axis else p for a, p in enumerate(position)) for i in range(grid.sizes[step.axis])
        ]
        arrays, me, parts = [state[other] for other in group], position[step.axis], grid.sizes[step.axis]

        def reading(shard, position=position):
            return local_reading(shape, step.before, step.axis, shard, position, grid)

        if step.primitive in ("split", "take"):
            found[position] = pieces(arrays[me], after, reading(after), parts)[me]
        elif step.primitive in ("gather", "all_gather"):
            found[position] = joined(arrays, before, reading(before))
        elif step.primitive == "all_sum":
            found[position] = sum(arrays)
        elif step.primitive == "reduce_scatter":
            found[position] = pieces(sum(arrays), after, reading(after), parts)[me]
        elif step.primitive in ("copy", "once"):
            found[position] = arrays[me]
        elif step.primitive == "keep":
            found[position] = arrays[me] * (me == 0)
        elif step.primitive == "zero_fill":
            found[position] = joined([a * (i == me) for i, a in enumerate(arrays)], before, reading(before))
        else:
            assert step.primitive == "all_to_all"
            whole = joined(arrays, before, reading(before))
            found[position] = pieces(whole, after, reading(after), parts)[me]
    return found


@settings(max_examples=60, deadline=None)
@given(problems())
def test_every_chain_yields_what_the_target_layout_says(problem):
    shape, gradient, source, target, grid = problem
    random = np.random.default_rng(0)
    tensor = random.permutation(math.prod(shape)).reshape(shape) + 1
    steps = plan_conversion(shape, 4, gradient, source, target, grid, MACHINE)
    source, target = plain(source, gradient), plain(target, gradient)
    partial = [grid.sizes[axis] for axis, layout in enumerate(source) if isinstance(layout, Partial)]
    addends = random.integers(-9, 9, size=partial or [1])
    state, current = held(tensor, source, grid, addends), source
    for step in steps:
        assert step.before == current
        assert [i for i, pair in enumerate(zip(step.before, step.after, strict=True)) if pair[0] != pair[1]] == [
            step.axis
        ]
        assert step.primitive == primitive_of(step.before[step.axis], step.after[step.axis])
        assert compatible(shape, step.after, grid)
        state, current = advanced(step, state, shape, grid), step.after
    assert current == target
    summed = [axis for axis, layout in enumerate(target) if isinstance(layout, Partial)]
    expected = held(tensor, tuple(Replicate() if isinstance(one, Partial) else one for one in target), grid, addends)
    for position in positions(grid):
        peers = [position]
        for axis in summed:
            peers = [(*p[:axis], i, *p[axis + 1 :]) for p in peers for i in range(grid.sizes[axis])]
        # addends of a Partial source that stays Partial differ per rank; their sum is the tensor
        np.testing.assert_array_equal(sum(state[p] for p in dict.fromkeys(peers)), expected[position])


@settings(max_examples=60, deadline=None)
@given(problems(count=1))
def test_local_shapes_are_the_largest_shard(problem):
    shape, _, layouts, grid = problem
    lengths = [
        max(len(kept(n, layouts, dim, position, grid)) for position in positions(grid)) for dim, n in enumerate(shape)
    ]
    assert local_shape(shape, layouts, grid) == tuple(lengths)


def share_a_dim(source, target):  # an order of the axes may then be illegal
    cuts = {(axis, one.dim) for side in (source, target) for axis, one in enumerate(side) if isinstance(one, Shard)}
    return len({dim for _, dim in cuts}) < len(cuts)


def axis_after_axis(shape, itemsize, gradient, source, target, grid):
    """The least cost of changing one axis at a time, each by its cheapest chain."""
    found = []
    for order in itertools.permutations(range(len(grid.sizes))):
        now, seconds = source, 0.0
        for axis in order:
            after = (*now[:axis], target[axis], *now[axis + 1 :])
            if not compatible(shape, after, grid):
                seconds = np.inf
                break
            seconds += sum(
                step.seconds for step in plan_conversion(shape, itemsize, gradient, now, after, grid, MACHINE)
            )
            now = after
        found.append(seconds)
    return min(found)


@settings(max_examples=40, deadline=None)
@given(problems(count=6), st.sampled_from([4, 1 << 12, 1 << 20]))
def test_the_matrix_holds_the_cost_of_the_chains(problem, itemsize):
    shape, gradient, *layouts, grid = problem
    costs = conversion_matrix(shape, itemsize, gradient, layouts[:4], layouts[2:], grid, MACHINE)
    for i, source in enumerate(layouts[:4]):
        for j, target in enumerate(layouts[2:]):
            steps = plan_conversion(shape, itemsize, gradient, source, target, grid, MACHINE)
            exact = sum(step.seconds for step in steps)
            assert costs[i, j] >= exact * (1 - 1e-9)
            simple = axis_after_axis(shape, itemsize, gradient, source, target, grid)
            assert costs[i, j] <= simple * (1 + 1e-9) or share_a_dim(source, target)
            assert (costs[i, j] == 0) == (not steps) or grid.sizes == (2, 1)


@settings(max_examples=30, deadline=None)
@given(problems(grids=[GridShape.parse("2"), GridShape.parse("5")], count=3), st.sampled_from([4, 1 << 20]))
def test_on_one_axis_no_detour_is_cheaper(problem, itemsize):
    shape, gradient, a, b, c, grid = problem
    (ab, bc, ac) = (
        sum(step.seconds for step in plan_conversion(shape, itemsize, gradient, *pair, grid, MACHINE))
        for pair in ((a, b), (b, c), (a, c))
    )
    assert ac <= (ab + bc) * (1 + 1e-9)


def exhaustive(shape, itemsize, gradient, source, target, grid):
    """The least cost over all chains without a repeated state, from costs of single steps as the planner gives them."""
    whole = (Replicate(), Copied()) if gradient else (Replicate(),)
    options = [tuple(dict.fromkeys((*whole, s, t))) for s, t in zip(source, target, strict=True)]
    states = [one for one in itertools.product(*options) if compatible(shape, one, grid)]
    cost = {source: 0.0}
    for _ in states:  # Bellman and Ford
        for one, other in itertools.permutations(states, 2):
            moved = [axis for axis in range(len(one)) if one[axis] != other[axis]]
            if one in cost and len(moved) == 1 and primitive_of(one[moved[0]], other[moved[0]]):
                inner = (*one[moved[0] + 1 :], *other[moved[0] + 1 :])
                if any(isinstance(x, Shard) and x in inner for x in (one[moved[0]], other[moved[0]])):
                    continue
                (step,) = direct(shape, itemsize, gradient, one, other, grid)
                cost[other] = min(cost.get(other, math.inf), cost[one] + step)
    return cost[target]


def direct(shape, itemsize, gradient, one, other, grid):
    (axis,) = [axis for axis in range(len(one)) if one[axis] != other[axis]]
    sizes = [float(itemsize * math.prod(local_shape(shape, layouts, grid))) for layouts in (one, other)]
    name = primitive_of(one[axis], other[axis])
    _, _, forward, adjoint = price(name, MACHINE, reaches(MACHINE, grid)[axis], *sizes)
    return [forward + (adjoint if gradient else 0.0)]


@settings(max_examples=30, deadline=None)
@given(problems(grids=[GridShape.parse("2x2"), GridShape.parse("3x2"), GridShape.parse("4x2")]))
def test_chains_are_the_cheapest_of_all(problem):
    shape, gradient, source, target, grid = problem
    source, target = plain(source, gradient), plain(target, gradient)
    steps = plan_conversion(shape, 1 << 16, gradient, source, target, grid, MACHINE)
    best = exhaustive(shape, 1 << 16, gradient, source, target, grid)
    assert sum(step.seconds for step in steps) == pytest.approx(best, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    problems(grids=[GridShape.parse("2x2"), GridShape.parse("4x2")], count=3, plain_shards=True),
    st.sampled_from([4, 1 << 20]),
)
def test_with_equal_links_and_no_shared_dim_no_detour_is_cheaper(problem, itemsize):
    shape, gradient, a, b, c, grid = problem
    layouts = (plain(a, gradient), plain(b, gradient), plain(c, gradient))
    cut = [{one.dim for one in column if isinstance(one, Shard)} for column in zip(*layouts, strict=True)]
    if cut[0] & cut[1]:
        return
    machine = profile(inter=Link(2e-6, 5e9))
    ab, bc, ac = (
        conversion_matrix(shape, itemsize, gradient, [x], [y], grid, machine)[0, 0] for x, y in ((a, b), (b, c), (a, c))
    )
    assert ac <= (ab + bc) * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(problems(), st.integers(1, 1 << 20), st.integers(1, 1 << 20))
def test_costs_grow_with_bytes(problem, one, other):
    shape, gradient, source, target, grid = problem
    low, high = (
        conversion_matrix(shape, size, gradient, [source], [target], grid, MACHINE)[0, 0]
        for size in sorted((one, other))
    )
    assert low <= high * (1 + 1e-12)


def names(source, target, shape=(8, 8), grid="2x2", gradient=True, itemsize=4096):
    steps = plan_conversion(shape, itemsize, gradient, source, target, GridShape.parse(grid), MACHINE)
    return [f"{step.primitive}{step.axis}" for step in steps]


def test_an_inner_cut_of_the_same_factor_is_undone_first():
    both, outer, inner = (Shard(0), Shard(0)), (Shard(0), Replicate()), (Replicate(), Shard(0))
    assert names(both, outer) == ["gather1"]
    assert names(both, inner) in (["gather1", "gather0", "split1"], ["all_gather1", "gather0", "take1"])
    chain = names(inner, both)  # as Replicate or as Copied, whichever is cheaper
    assert chain[-1] == "split1"
    assert chain.index("gather1") < max(i for i, name in enumerate(chain) if name in ("split0", "take0"))
    assert names(both, (Replicate(), Replicate())) == ["gather1", "gather0"]
    assert names((Replicate(), Replicate()), both) == ["split0", "split1"]


def test_cuts_of_separate_factors_commute():
    batch, sequence = Shard(0, 1, 8), Shard(0, 4, 1)
    assert names((batch, sequence), (Replicate(), sequence), shape=(32,)) == ["gather0"]
    assert names((sequence, batch), (Replicate(), batch), shape=(32,)) == ["gather0"]


def test_composite_cells_are_two_steps():
    assert names((Partial(),), (Copied(),), grid="2") == ["all_sum0", "copy0"]
    assert names((Copied(),), (Partial(),), grid="2") == ["once0", "keep0"]


def test_the_cheaper_order_is_chosen():
    """Gather after the other axis has been cut, cut before it is gathered."""
    assert names((Shard(0), Replicate()), (Replicate(), Shard(1))) == ["split1", "gather0"]
    assert names((Replicate(), Shard(1)), (Shard(0), Replicate())) == ["split0", "gather1"]


def test_without_gradient_copied_is_replicate_and_the_adjoint_is_free():
    assert names((Copied(),), (Replicate(),), grid="2", gradient=False) == []
    (step,) = plan_conversion((8,), 8, False, (Shard(0),), (Copied(),), GridShape.parse("2"), MACHINE)
    assert (step.primitive, step.after) == ("gather", (Replicate(),))
    assert (step.bytes_adjoint, step.seconds_adjoint) == (0, 0)
    packing = MACHINE.launch_floor + 2 * 64 / MACHINE.memory_bandwidth
    assert step.seconds_forward == pytest.approx(2e-6 + 64 / 2 / 5e9 + packing)


def test_bytes_and_seconds_of_one_step():
    """Shard(0) to Copied over 4 ranks of one node: an all-gather of 1024 bytes forward, a reduce-scatter back."""
    (step,) = plan_conversion((16, 16), 4, True, (Shard(0),), (Copied(),), GridShape.parse("4"), MACHINE)
    assert (step.bytes_forward, step.bytes_adjoint) == (1024, 1024)
    packing = MACHINE.launch_floor + 2 * 1024 / MACHINE.memory_bandwidth
    assert step.seconds_forward == step.seconds_adjoint == pytest.approx(2 * 2e-6 + 0.75 * 1024 / 5e9 + packing)


@pytest.mark.parametrize(
    ("shape", "layouts", "fits"),
    [
        ((32,), (Shard(0, 1, 8), Shard(0, 4, 1)), True),
        ((32,), (Shard(0, 4, 1), Shard(0, 1, 8)), True),
        ((32,), (Shard(0), Shard(0)), True),
        ((32,), (Shard(0), Shard(0, 4, 1)), False),
        ((32,), (Shard(0, 1, 4), Shard(0, 4, 1)), False),  # the factors 32/4 and 32/4 overlap in the middle
        ((32,), (Shard(0, 1, 16), Shard(0, 4, 1)), True),
        ((30,), (Shard(0, 4, 1), Replicate()), False),
        ((30,), (Shard(1), Replicate()), False),
        ((30, 2), (Shard(1), Shard(0)), True),
        ((0, 2), (Shard(0), Shard(0, 1, 1)), True),
    ],
)
def test_compatible(shape, layouts, fits):
    assert compatible(shape, layouts, GridShape.parse("2x2")) is fits


def test_an_incompatible_pair_costs_infinity():
    good, bad = (Shard(0), Replicate()), (Shard(0), Shard(0, 4, 1))
    costs = conversion_matrix((32,), 4, True, [good, bad], [good, bad], GridShape.parse("2x2"), MACHINE)
    assert np.isinf(costs).tolist() == [[False, True], [True, True]]
