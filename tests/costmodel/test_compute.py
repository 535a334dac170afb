import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.costmodel import compute
from autopar.costmodel.collectives import Reach, reaches
from autopar.costmodel.communication import halo_seconds
from autopar.costmodel.communication import seconds as move_seconds
from autopar.errors import ConfigError
from autopar.ir.graph import Node, Ref, Value
from autopar.ir.grid import GridShape
from autopar.ir.layout import Copied, Replicate, Shard, even_bounds
from autopar.ir.machine import Link, load
from autopar.ops.record.op import Inner, Op
from autopar.ops.record.rule import Call, Window, letters, split_choice, whole_choice

MACHINE = load("cpu")
INSIDE = Reach(4, 1, MACHINE.intra, MACHINE.inter)
B, K, N = 4096, 1024, 2048


def op(work="matmul", **more):
    return Op("test", (), "", rule=lambda call: None, emit=lambda *_: "", work=work, **more)


def linear(input_gradient=True, bias=True):
    operands = [Value("x", (B, K), "float32", input_gradient), Value("w", (N, K), "float32", True)]
    operands += [Value("b", (N,), "float32", True)] * bias
    args = tuple(Ref(value.name) for value in operands)
    call = Call(
        Node("y", "aten.linear.default", args, (), ("y",)), tuple(operands), (Value("y", (B, N), "float32", True),)
    )
    rule = letters("b k, n k, n? -> b n", call)
    return call, dataclasses.replace(rule, addends=frozenset({2}))


LINEAR = op(backward=2.0)


def seconds(call, rule, record, splits, grid="4", machine=MACHINE):
    choices = tuple(whole_choice(call, one) if len(one) > 1 else split_choice(rule, call, one) for one in splits)
    return compute.node_seconds(call, rule, record, choices, GridShape.parse(grid), machine)


def test_a_product_runs_at_its_rate():
    call, rule = linear()
    flops = 2 * B * K * N
    forward, backward = seconds(call, rule, LINEAR, ["replicate"])
    assert forward == pytest.approx(flops / (2e11 * 0.4))
    assert backward == pytest.approx(2 * forward)
    assert seconds(call, rule, LINEAR, ["copied"]) == (forward, backward)


def test_more_ranks_than_cores_share_them():
    call, rule = linear()
    alone = seconds(call, rule, LINEAR, ["b"])
    for cores, times in ((8, 1), (4, 1), (2, 2), (1, 4)):
        crowded = dataclasses.replace(MACHINE, cores_per_node=cores)
        assert seconds(call, rule, LINEAR, ["b"], machine=crowded) == pytest.approx([times * one for one in alone])


def test_backward_may_have_a_rate_of_its_own():
    call, rule = linear()
    forward, backward = seconds(call, rule, LINEAR, ["b"])
    slow = dataclasses.replace(MACHINE, efficiency_backward=(("matmul", 0.2),))
    assert seconds(call, rule, LINEAR, ["b"], machine=slow) == pytest.approx((forward, 2 * backward))


@pytest.mark.parametrize("letter", ["b", "k", "n"])
def test_each_letter_divides_the_work(letter):
    call, rule = linear()
    whole = seconds(call, rule, LINEAR, ["replicate"])
    assert seconds(call, rule, LINEAR, [letter]) == pytest.approx([one / 4 for one in whole])


def test_two_axes_divide_twice_on_two_letters_or_one():
    call, rule = linear()
    whole = seconds(call, rule, LINEAR, ["replicate"])[0]
    for splits in (["b", "n"], ["b", "b"], ["n", "k"]):
        assert seconds(call, rule, LINEAR, splits, "4x2")[0] == pytest.approx(whole / 8)
    assert seconds(call, rule, LINEAR, ["b", "replicate"], "4x2")[0] == pytest.approx(whole / 4)


def test_the_slowest_rank_has_the_largest_shard():
    call, rule = linear()
    whole = seconds(call, rule, LINEAR, ["replicate"])[0]
    assert seconds(call, rule, LINEAR, ["b"], "3")[0] == pytest.approx(whole * math.ceil(B / 3) / B)


def test_the_first_layer_s_input_needs_no_gradient():
    call, rule = linear(input_gradient=False)
    forward, backward = seconds(call, rule, LINEAR, ["replicate"])
    assert backward == pytest.approx(forward)


def test_no_gradient_no_backward():
    call, rule = linear()
    operands = tuple(dataclasses.replace(value, differentiable=False) for value in call.operands)
    call = dataclasses.replace(call, operands=operands)
    assert seconds(call, rule, LINEAR, ["replicate"])[1] == 0


def pointwise(n):
    value = Value("x", (n,), "float32", True)
    call = Call(
        Node("y", "aten.relu.default", (Ref("x"),), (), ("y",)), (value,), (dataclasses.replace(value, name="y"),)
    )
    return call, letters("d -> d", call)


def test_bytes_bound_a_cheap_operator_and_the_floor_a_small_one():
    machine = dataclasses.replace(MACHINE, efficiency=tuple((work, 1.0) for work, _ in MACHINE.efficiency))
    call, rule = pointwise(10_000_000)
    forward, backward = seconds(call, rule, op("pointwise", saves="output"), ["replicate"], machine=machine)
    assert forward == pytest.approx(2 * 4e7 / 1.5e10)
    assert backward == pytest.approx(3 * 4e7 / 1.5e10)  # reads the result and its gradient, writes the operand's
    assert seconds(*pointwise(10), op("pointwise"), ["replicate"]) == (5e-6, 5e-6)
    assert seconds(*pointwise(10_000_000), op("view"), ["replicate"]) == (0, 0)


def test_own_flops_are_taken():
    call, rule = pointwise(1_000_000)
    record = op("reduce", flops=lambda call, rule: 1e9, backward=3.0)
    forward, backward = seconds(call, rule, record, ["d"], "2")
    assert forward == pytest.approx(0.5e9 / MACHINE.rate("reduce", "float32"))
    assert backward == pytest.approx(3 * forward)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from("bkn"))
def test_more_ranks_are_never_slower(p, q, letter):
    call, rule = linear()
    few, many = sorted([p, q])
    one, other = (seconds(call, rule, LINEAR, [letter], str(n)) for n in (few, many))
    assert other[0] <= one[0]
    assert other[1] <= one[1]


# ---- halos


@st.composite
def windows(draw):
    window = Window(
        kernel=draw(st.integers(1, 7)),
        stride=draw(st.integers(1, 4)),
        padding=draw(st.integers(0, 3)),
        dilation=draw(st.integers(1, 3)),
        transposed=draw(st.booleans()),
    )
    extent, reach = draw(st.integers(1, 24)), window.dilation * (window.kernel - 1)
    if window.transposed:
        result = (extent - 1) * window.stride - 2 * window.padding + reach + 1 + draw(st.integers(0, window.stride - 1))
    else:
        result = (extent + 2 * window.padding - reach - 1) // window.stride + 1
    return extent, max(result, 0), window


@settings(max_examples=400, deadline=None)
@given(windows(), st.integers(1, 6))
def test_halo_rows_against_a_count_row_by_row(setting, parts):
    """Rows of the operand from the first to the last that own result rows touch (padding left out), owned by others."""
    extent, result, window = setting
    own, rows = even_bounds(extent, parts), even_bounds(result, parts)
    most, farthest = 0, 0
    for rank in range(parts):
        touched = set()
        for j in range(rows[rank], rows[rank + 1]):
            for i in range(window.kernel):
                offset = window.dilation * i
                if window.transposed:
                    at, rest = divmod(j + window.padding - offset, window.stride)
                    touched |= {at} if rest == 0 else set()
                else:
                    touched.add(j * window.stride - window.padding + offset)
        between = set(range(min(touched), max(touched) + 1)) & set(range(extent)) if touched else set()
        foreign = between - set(range(own[rank], own[rank + 1]))
        sides = [0, 0]
        for other in range(parts):
            if foreign & set(range(own[other], own[other + 1])):
                sides[other > rank] = max(sides[other > rank], abs(other - rank))
        most, farthest = max(most, len(foreign)), max(farthest, *sides)
    rows_needed, neighbours = compute.halo_rows(extent, result, parts, window)
    if window.transposed and (window.dilation > 1 or window.stride > window.kernel):
        assert rows_needed >= most  # the price takes the whole span, also where the rows at its ends are skipped
    else:
        assert (rows_needed, neighbours) == (most, farthest)


@pytest.mark.parametrize(
    ("extent", "result", "parts", "window", "rows"),
    [
        (11, 11, 3, Window(5, padding=2), 4),
        (11, 7, 3, Window(5), 3),
        (11, 5, 3, Window(2, stride=2), 0),
        (20, 10, 6, Window(2, stride=2), 2),
        (10, 5, 4, Window(2, stride=2), 1),
        (10, 5, 4, Window(5, stride=2, padding=2), 3),
        (8, 8, 2, Window(1), 0),
        (4, 4, 4, Window(5, padding=2), 3),
    ],
)
def test_halo_rows_worked_by_hand(extent, result, parts, window, rows):
    assert compute.halo_rows(extent, result, parts, window)[0] == rows


def conv(n=2, c=16, h=64, w=48, k=32, gradient=True):
    x, weight = Value("x", (n, c, h, w), "float32", gradient), Value("weight", (k, c, 3, 3), "float32", True)
    node = Node("y", "aten.conv2d.default", (Ref("x"), Ref("weight")), (), ("y",))
    call = Call(node, (x, weight), (Value("y", (n, k, h, w), "float32", True),))
    rule = letters("n c h~ w~, k c [r] [s] -> n k h~ w~", call)
    return call, dataclasses.replace(rule, windows={letter: Window(3, padding=1) for letter in "hw"})


CONV = op("conv", backward=2.0)


def inner(call, rule, record, splits, grid):
    choices = tuple(split_choice(rule, call, one) for one in splits)
    return compute.inner_conversions(call, rule, record, choices, GridShape.parse(grid), MACHINE)


def test_the_halo_of_a_split_window():
    call, rule = conv()
    (halo,) = inner(call, rule, CONV, "h", "4")
    assert (halo.primitive, halo.axis) == ("halo", 0)
    assert halo.bytes_forward == halo.bytes_adjoint == 2 * (2 * 16 * 48) * 4
    assert halo.seconds_forward == halo.seconds_adjoint == halo_seconds(MACHINE, INSIDE, halo.bytes_forward)
    assert inner(call, rule, CONV, "k", "4") == ()
    assert inner(call, rule, CONV, "h", "1") == ()


def test_halos_shrink_with_the_other_axes():
    call, rule = conv()
    rows, columns = inner(call, rule, CONV, "hw", "4x2")
    assert (rows.axis, columns.axis) == (0, 1)
    assert rows.bytes_forward == 2 * (2 * 16 * 24) * 4
    assert columns.bytes_forward == 1 * (2 * 16 * 16) * 4


def test_an_input_without_gradient_sends_no_halo_back():
    call, rule = conv(gradient=False)
    (halo,) = inner(call, rule, CONV, "h", "4")
    assert (halo.bytes_adjoint, halo.seconds_adjoint) == (0, 0)
    assert halo.bytes_forward > 0


def test_convolution_flops():
    call, rule = conv()
    assert compute.whole_flops(call, rule, CONV) == 2 * 2 * 16 * 64 * 48 * 32 * 9


def test_sums_inside_a_distributed_form():
    call, rule = pointwise(1000)
    record = op("reduce", inner=lambda call, rule, letter: (Inner("all_sum", 256, 128), Inner("halo", 64, 0)))
    total, halo = inner(call, rule, record, "d", "4")
    (reach,) = reaches(MACHINE, GridShape.parse("4"))
    assert total.seconds == sum(move_seconds("sum", MACHINE, reach, size) for size in (256.0, 128.0))
    assert (total.bytes_forward, total.bytes_adjoint) == (256, 128)
    assert (halo.primitive, halo.seconds_forward, halo.seconds_adjoint) == (
        "halo",
        halo_seconds(MACHINE, reach, 64.0),
        0,
    )


# ---- parameters


def all_sum_seconds(link, ranks, size):
    return move_seconds("sum", MACHINE, Reach(ranks, 1, link, link), size)


def test_gradient_sums_and_updates():
    weight, grid = Value("w", (N, K), "float32", True), GridShape.parse("4x2")
    machine = dataclasses.replace(MACHINE, intra=Link(1e-6, 1e9), overlap=0.25)
    size = N * K * 4
    (one,) = compute.gradient_sums(weight, (Copied(), Shard(0)), grid, machine)
    assert (one.axis, one.bytes_adjoint) == (0, size / 2)
    assert one.seconds == pytest.approx(0.75 * all_sum_seconds(Link(0.0, 1e9), 4, size / 2))  # one of many in a bucket
    assert len(compute.gradient_sums(weight, (Copied(), Copied()), grid, machine)) == 2
    assert compute.gradient_sums(weight, (Replicate(), Shard(0)), grid, machine) == ()
    for optimizer, times in (("sgd", 3), ("momentum", 5), ("adamw", 7)):
        sums, update = compute.parameter_seconds(weight, "parameter", (Copied(), Shard(0)), optimizer, grid, machine)
        assert sums == pytest.approx(one.seconds)
        assert update == pytest.approx(times * size / 2 / 1.5e10)
    assert compute.parameter_seconds(weight, "buffer", (Copied(), Copied()), "sgd", grid, machine) == (0, 0)


@given(st.sampled_from(["4x2", "2x4", "3x5", "2x2x2", "1x7"]), st.floats(0.0, 1.0))
def test_gradients_are_summed_over_all_axes_at_once(grid, overlap):
    """On one kind of link several axes cost what one axis of as many ranks costs, whatever their order."""
    weight, shape = Value("w", (N, K), "float32", True), GridShape.parse(grid)
    machine = dataclasses.replace(MACHINE, overlap=overlap)
    (whole,) = compute.gradient_sums(weight, (Copied(),), GridShape.parse(str(shape.size)), machine)
    apart = compute.gradient_sums(weight, (Copied(),) * len(shape.sizes), shape, machine)
    assert sum(one.seconds for one in apart) == pytest.approx(whole.seconds)


def test_between_nodes_goes_what_a_node_has_cut():
    """Four nodes of two ranks: the slow link carries half of the gradient for each rank, wherever its axis stands."""
    weight = Value("w", (N, K), "float32", True)
    machine = dataclasses.replace(MACHINE, ranks_per_node=2, intra=Link(0.0, 1e10), inter=Link(0.0, 1e9), overlap=0.0)
    across, inside = compute.gradient_sums(weight, (Copied(), Copied()), GridShape.parse("4x2"), machine)
    assert (across.axis, inside.axis) == (0, 1)
    assert across.seconds == pytest.approx(all_sum_seconds(Link(0.0, 1e9), 4, N * K * 4 / 2))
    assert inside.seconds == pytest.approx(all_sum_seconds(Link(0.0, 1e10), 2, N * K * 4))


def test_an_unknown_optimizer():
    weight = Value("w", (N, K), "float32", True)
    with pytest.raises(ConfigError, match="did you mean 'adamw'"):
        compute.parameter_seconds(weight, "parameter", (Copied(),), "adam", GridShape.parse("2"), MACHINE)
