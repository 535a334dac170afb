"""What calls, parameters and inputs may do on a whole grid: all that is legal, and nothing else."""

import functools
import itertools

import pytest
from compiling import EVERY, captured

from autopar.costmodel.local_shapes import compatible
from autopar.errors import ConfigError
from autopar.ir.graph import Value
from autopar.ir.grid import GridShape
from autopar.ir.layout import Copied, Partial, Replicate, Shard
from autopar.ops.annotated import annotate
from autopar.ops.record.rule import choices, fills
from autopar.partitioner.formulation.strategies import (
    demands,
    filled_factors,
    gathered_storage_layouts,
    operand_layouts,
    result_layouts,
    storage_layouts,
    strategies_of,
    whole_strategy,
)

GRIDS = [GridShape.parse(text) for text in ("2", "3", "2x2", "2x1")]


def described(name, grid, pins=None):
    return strategies_of(annotate(captured(name).graph), grid, pins or {})


@pytest.mark.parametrize("name", EVERY)
def test_every_strategy_is_legal_and_the_whole_call_is_among_them(name):
    every = [(grid, item) for grid in GRIDS for item in described(name, grid).values()]
    for grid, item in every:
        call, rule = item.call, item.rule
        assert whole_strategy(call, grid) in item.strategies
        assert len(set(item.strategies)) == len(item.strategies)
        for strategy in item.strategies:
            assert len(strategy) == len(grid.sizes)
            for choice, size in zip(strategy, grid.sizes, strict=True):
                reading = {choice.letter: [(choice.blocks, choice.unit)]}
                assert choice in choices(rule, call, reading)
                assert size > 1 or choice.mode == "replicate"
                if choice.mode == "split":
                    assert rule.extents[choice.letter] // (choice.blocks * choice.unit) >= size
            for i, value in enumerate(call.operands):
                assert compatible(value.shape, operand_layouts(strategy, i), grid)
            for i, value in enumerate(call.results):
                assert not value.name or compatible(value.shape, result_layouts(strategy, i), grid)


@pytest.mark.parametrize("name", EVERY)
def test_no_tensor_without_gradient_is_an_addend_or_copied(name):
    for item in described(name, GridShape.parse("2x2")).values():
        for strategy in item.strategies:
            for i, value in enumerate(item.call.operands):
                if not value.differentiable:
                    assert not [one for one in operand_layouts(strategy, i) if isinstance(one, Partial | Copied)]


def test_a_windowed_letter_is_split_over_one_axis_and_others_over_several():
    items = described("conv", GridShape.parse("2x2"))
    pairs = {tuple(choice.letter for choice in strategy) for strategy in items["conv1"].strategies}
    assert ("h", "w") in pairs
    assert ("n", "n") in pairs
    assert ("h", "h") not in pairs
    assert not [one for one in pairs if one[0] == one[1] and one[0] in items["conv1"].rule.windows]


def test_the_strategies_of_two_axes_are_the_pairs_of_one():
    """On 2x2 what is open on each axis alone, minus what the two cannot do together."""
    alone = [strategy[0] for strategy in described("mlp", GridShape.parse("2"))["fc1"].strategies]
    both = set(described("mlp", GridShape.parse("2x2"))["fc1"].strategies)
    assert both <= set(itertools.product(alone, alone))
    assert set(itertools.product(alone, alone)) - both == set()


def test_heavy_calls_are_never_computed_by_all_ranks_for_addends_of_gradients():
    for item in described("gpt", GridShape.parse("2")).values():
        modes = {choice.mode for strategy in item.strategies for choice in strategy}
        if item.op.work in ("matmul", "conv", "attention", "reduce"):
            assert "copied" not in modes


def test_pins_leave_what_they_name():
    grid = GridShape.parse("2x2")
    pinned = described("mlp", grid, {"fc1": {0: "n", 1: "replicate"}, "fc2": {1: "k"}})
    free = described("mlp", grid)
    assert [tuple(map(str, strategy)) for strategy in pinned["fc1"].strategies] == [("n", "replicate")]
    assert {str(strategy[1]) for strategy in pinned["fc2"].strategies} == {"k"}
    assert {strategy[0] for strategy in pinned["fc2"].strategies} == {
        strategy[0] for strategy in free["fc2"].strategies
    }
    assert pinned["relu"].strategies == free["relu"].strategies


def test_two_axes_leave_every_rank_a_row():
    """Four outputs: over 2 x 2 ranks, or 3 ranks, but not over 3 x 2."""
    four, six = (described("mlp", GridShape.parse(text))["fc2"].strategies for text in ("2x2", "3x2"))
    assert ("n", "n") in {tuple(map(str, one)) for one in four}
    letters = {tuple(map(str, one)) for one in six}
    assert ("n", "n") not in letters
    assert {("n", "k"), ("b0", "n"), ("b0", "b0")} <= letters
    asked = strategies_of(annotate(captured("mlp").graph), GridShape.parse("3x2"), {"fc2": {0: "n", 1: "n"}})
    assert [tuple(map(str, one)) for one in asked["fc2"].strategies] == [("n", "n")]


def test_a_pin_may_split_what_leaves_a_rank_without_rows():
    """Left free, every rank gets a row; the user may ask for more."""
    grid = GridShape.parse("5")
    assert "n" not in {str(choice) for (choice,) in described("mlp", grid)["fc2"].strategies}
    pinned = strategies_of(annotate(captured("mlp").graph), grid, {"fc2": {0: "n"}})
    assert [str(choice) for (choice,) in pinned["fc2"].strategies] == ["n"]


def test_a_pin_that_cannot_be_met():
    with pytest.raises(ConfigError, match="cannot do what is pinned"):
        described("conv", GridShape.parse("2x2"), {"conv1": {0: "h", 1: "h"}})


WEIGHT = Value("w", (8, 6), "float32", True)
TABLE = Value("t", (8, 6), "float32", False)


def test_homes_are_what_the_readers_ask_for_and_never_addends():
    grid = GridShape.parse("2x2")
    wanted = [(Copied(), Shard(1)), (Partial(), Copied()), (Shard(0), Shard(0))]
    found = storage_layouts(WEIGHT, wanted, grid)
    assert set(found) == {
        (Replicate(), Replicate()),
        (Copied(), Shard(1)),
        (Replicate(), Copied()),
        (Shard(0), Shard(0)),
    }


def test_homes_of_what_has_no_gradient_are_never_copied():
    grid, wanted = GridShape.parse("2x2"), [(Copied(), Shard(1)), (Replicate(), Copied())]
    assert set(storage_layouts(TABLE, wanted, grid)) == {(Replicate(), Replicate()), (Replicate(), Shard(1))}
    assert gathered_storage_layouts(TABLE, wanted, grid) == {}


def test_homes_of_parameters_that_may_be_gathered():
    grid = GridShape.parse("2x2")
    whole = (Copied(), Copied())
    parts = [(Copied(), Shard(0)), (Shard(0), Copied()), (Shard(0), Shard(0))]
    assert gathered_storage_layouts(WEIGHT, [whole], grid) == dict.fromkeys(parts, whole)
    assert (
        gathered_storage_layouts(WEIGHT, [(Copied(), Shard(0)), whole], grid)[Shard(0), Shard(0)] == whole
    )  # the larger of two
    thin = Value("w", (3, 6), "float32", True)
    assert (Shard(0), Shard(0)) not in gathered_storage_layouts(thin, [whole], GridShape.parse("4x4"))
    assert gathered_storage_layouts(Value("s", (), "float32", True), [whole], grid) == {}


def test_demands_are_the_layouts_of_all_readers():
    graph, grid = captured("gpt").graph, GridShape.parse("2")
    items = strategies_of(annotate(graph), grid, {})
    found = demands(graph, items)
    assert found.keys() == graph.values.keys()
    for name, layouts in found.items():
        expected = {
            operand_layouts(strategy, i)
            for item in items.values()
            for i, read in enumerate(item.node.inputs)
            if read == name
            for strategy in item.strategies
        }
        assert set(layouts) == expected
        assert len(layouts) == len(expected)
    assert not found[graph.loss]


@pytest.mark.parametrize("name", EVERY)
def test_filled_factors_are_what_a_strategy_must_leave_on_every_rank(name):
    """Balanced cuts of these factors leave a rank empty exactly where the operator's rule says so."""
    items = described(name, GridShape.parse("1")).values()
    for grid, item in itertools.product([*GRIDS, GridShape.parse("3x2")], items):
        every = choices(item.rule, item.call, {})
        for strategy in itertools.product(every, repeat=len(grid.sizes)):
            found = filled_factors(item.rule, strategy)
            least = [functools.reduce(lambda rows, axis: rows // grid.sizes[axis], axes, rows) for axes, rows in found]
            assert all(least) == fills(item.rule, strategy, grid.sizes)
            assert {axis for axes, _ in found for axis in axes} == {
                axis for axis, choice in enumerate(strategy) if choice.letter in item.rule.filled
            }
