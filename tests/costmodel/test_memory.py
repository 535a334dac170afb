import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopar.costmodel import memory
from autopar.costmodel.local_shapes import local_bytes
from autopar.errors import ConfigError
from autopar.ir.graph import Node, Ref, Value
from autopar.ir.grid import GridShape
from autopar.ir.layout import Copied, Replicate, Shard
from autopar.ops.record.op import Op
from autopar.ops.record.rule import Call, letters, split_choice, whole_choice
from autopar.ops.registry import record_of

GRID = GridShape.parse("4x2")


def op(**more):
    return Op("test", (), "", rule=lambda call: None, emit=lambda *_: "", **more)


OPS = {
    "linear": op(work="matmul", saves="inputs"),
    "relu": op(saves="output"),
    "view": op(work="view", saves=""),
    "add": op(saves=""),
    "sum": op(saves=""),
}


def linear_call():
    x, w = Value("x", (64, 32), "float32", True), Value("w", (16, 32), "float32", True)
    call = Call(Node("y", "linear", (Ref("x"), Ref("w")), (), ("y",)), (x, w), (Value("y", (64, 16), "float32", True),))
    return call, letters("b k, n k -> b n", call)


def test_saved_bytes_are_local():
    call, rule = linear_call()
    choices = (split_choice(rule, call, "b"), split_choice(rule, call, "n"))
    x, w, y = 64 * 32 * 4 // 4, 16 * 32 * 4 // 2, 64 * 16 * 4 // 8
    assert memory.saved_bytes(call, rule, OPS["linear"], choices, GRID) == x + w
    assert memory.saved_bytes(call, rule, OPS["linear"], choices, GRID, resident=("w",)) == x
    assert memory.saved_bytes(call, rule, OPS["relu"], choices, GRID) == y
    assert memory.saved_bytes(call, rule, OPS["add"], choices, GRID) == 0
    assert memory.saved_bytes(call, rule, OPS["view"], choices, GRID) == 0
    whole = tuple(whole_choice(call, "copied") for _ in "ab")
    assert memory.saved_bytes(call, rule, OPS["linear"], whole, GRID) == 64 * 32 * 4 + 16 * 32 * 4


def test_a_tensor_read_twice_is_kept_once():
    x = Value("x", (64,), "float32", True)
    call = Call(Node("y", "mul", (Ref("x"), Ref("x")), (), ("y",)), (x, x), (Value("y", (64,), "float32", True),))
    rule = letters("n, n -> n", call)
    assert memory.saved_bytes(call, rule, OPS["linear"], (whole_choice(call, "copied"),) * 2, GRID) == 256


def test_nothing_is_kept_where_no_gradient_flows():
    x = Value("x", (64,), "float32", False)
    call = Call(Node("y", "mul", (Ref("x"),), (), ("y",)), (x,), (Value("y", (64,), "float32", False),))
    rule = letters("n -> n", call)
    assert memory.saved_bytes(call, rule, OPS["linear"], (whole_choice(call, "replicate"),) * 2, GRID) == 0


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("x0/1 x1", {"x": 64 * 32, "w": 16 * 32}),  # whole bytes; x is split in four by b, w in two by n
        ("8:y0 x7", {"": 64 * 16 * 2}),
        ("=x0 =x0", {"": 2 * 64 * 32}),
        ("ints 2@b,n+1", {"": None}),
    ],
)
def test_words(words, kept):
    call, rule = linear_call()
    choices = (split_choice(rule, call, "b"), split_choice(rule, call, "n"))
    parts = {"x": 4, "w": 2, "": 8 if "y0" in words else 4}
    found = {}
    for name, size in memory.kept(call, rule, op(keeps=words), choices, GRID):
        found[name] = found.get(name, 0) + size
    expected = {name: 4 * size // parts[name] if size else 2 * 16 * (8 + 1) for name, size in kept.items()}
    assert found == expected


def test_rows_of_neighbours_are_kept_with_a_window():
    x, w = Value("x", (2, 4, 16, 6), "float32", True), Value("w", (8, 4, 3, 3), "float32", True)
    node = Node("y", "aten.conv2d.default", (Ref("x"), Ref("w"), None, (1, 1), (1, 1)), (), ("y",))
    call = Call(node, (x, w), (Value("y", (2, 8, 16, 6), "float32", True),))
    record = record_of(node.target)
    rule = record.rule(call)
    choices = (split_choice(rule, call, "h"), split_choice(rule, call, "n"))
    sizes = memory.kept(call, rule, record, choices, GRID)
    assert sizes == [("", 1 * 4 * (16 // 4 + 2) * 6 * 4), ("w", w.nbytes)]
    assert memory.kept_names(call, rule, record) == {"x", "w"}


@pytest.mark.parametrize(("optimizer", "copies"), [("sgd", 0), ("momentum", 1), ("adamw", 2)])
def test_parameters(optimizer, copies):
    weight = Value("w", (10, 6), "float32", True)
    local = 3 * 6 * 4  # ten rows over four ranks: at most three
    parts = memory.parameter_parts(weight, "parameter", (Shard(0), Copied()), optimizer, GRID)
    assert parts == (local, local, copies * local)
    assert memory.parameter_bytes(weight, "parameter", (Shard(0), Copied()), optimizer, GRID) == (2 + copies) * local
    for kind in ("frozen", "buffer", "constant"):
        assert memory.parameter_parts(weight, kind, (Replicate(), Replicate()), optimizer, GRID) == (240, 0, 0)


def test_an_unknown_optimizer():
    with pytest.raises(ConfigError, match="sgd, momentum, adamw"):
        memory.optimizer_copies("lion")


def test_local_bytes():
    assert local_bytes((11, 6), 4, (Shard(0), Shard(0)), GRID) == 2 * 6 * 4
    assert local_bytes((11, 6), 8, (Replicate(), Shard(1)), GRID) == 11 * 3 * 8


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 100)).map(
            lambda one: memory.Allocation("", min(one[:2]), max(one[:2]) + 1, one[2])
        ),
        max_size=8,
    )
)
def test_the_timeline_counts_what_is_held(held):
    expected = [sum(one.nbytes for one in held if one.start <= t < one.end) for t in range(10)]
    assert memory.timeline(held, 10).tolist() == expected
    assert memory.peak(held, 10) == (max(expected), int(np.argmax(expected)))
