"""What the emitted calls look like where rows are looked up, moved, counted or compared across ranks."""

import pytest
from printed_calls import printed

from autopar.ir.graph import Dtype
from autopar.ops.record.op import Sample, T
from autopar.ops.record.rule import split_choice
from autopar.ops.registry import registry
from autopar.proof.record_proof import emitted
from autopar.proof.reference import whole_of

RECORDS = registry()
_ROWS = T((4,), "index 6")

# target, sample, letters split over DATA and MODEL ("" for neither), the line
LINES = [
    ("aten.index_select.default", Sample((T((6, 3)), 0, _ROWS)), ("i0", ""), "x0.index_select(0, x1)"),
    ("aten.index_select.default", Sample((T((6, 3)), 0, _ROWS)), ("i0", "d0"), "lookup(x0, 0, x1, over=(MODEL, 6))"),
    ("aten.index.Tensor", Sample((T((2, 6, 3)), (None, _ROWS))), ("d0", "d2"), "x0[:, x1]"),
    ("aten.index.Tensor", Sample((T((6, 6)), (_ROWS, _ROWS))), ("i0", ""), "x0[x1, x2]"),
    ("aten.gather.default", Sample((T((4, 6)), 1, T((4, 2), "index 6"))), ("d0", "d1"),
     "lookup_along(x0, 1, x1, over=(MODEL, 6))"),
    ("aten.scatter_add.default", Sample((T((4, 6)), 1, T((4, 2), "index 6"), T((4, 2)))), ("d0", "i1"),
     "x0.scatter_add(1, x1, x2)"),
    ("aten.index_add.default", Sample((T((6, 3)), 0, _ROWS, T((4, 3)))), ("d0", ""),
     'update_rows(x0, 0, x1, x2, "index_add", over=(DATA, 6))'),
    ("aten.tril.default", Sample((T((4, 6)), 1)), ("d1", ""), "x0.tril(1 - DATA.start(6))"),
    ("aten.triu.default", Sample((T((4, 6)),)), ("d0", "d1"), "x0.triu(DATA.start(4) - MODEL.start(6))"),
    ("aten.arange.default", Sample((6,)), ("d0", ""), "torch.arange(DATA.start(6), DATA.start(6) + DATA.part(6))"),
    ("aten.arange.start_step", Sample((1, 9, 2)), ("d0", ""),
     "torch.arange(1 + 2 * DATA.start(4), 1 + 2 * (DATA.start(4) + DATA.part(4)), 2)"),
    ("aten.one_hot.default", Sample((_ROWS, 6)), ("d0", ""), "F.one_hot(x0, 6)"),
    ("aten.one_hot.default", Sample((_ROWS, 6)), ("", "v"), "F.one_hot(x0, 6).narrow(-1, MODEL.start(6), MODEL.part(6))"),
    ("aten.slice.Tensor", Sample((T((4, 6)), 1, 1, 6)), ("", "d1"), "slice_rows(x0, 1, 1, 6, 1, (MODEL, 6))"),
    ("aten.select.int", Sample((T((4, 6)), 1, 0)), ("", "d1"), "select_row(x0, 1, 0, (MODEL, 6))"),
    ("aten.roll.default", Sample((T((4, 6)), (2,), (1,))), ("d0", ""), "x0.roll((2,), (1,))"),
    ("aten.roll.default", Sample((T((4, 6)), (1, 2), (0, 1))), ("", "d1"), "roll(x0, (1, 2), (0, 1), {1: (MODEL, 6)})"),
    ("aten.cat.default", Sample(((T((4, 1)), T((4, 6))), 1)), ("d1", ""), "cat((x0, x1), 1, DATA, (1, 6))"),
    ("aten.cumsum.default", Sample((T((4, 6)), 1)), ("d0", "d1"), "cumsum(x0, 1, MODEL)"),
    ("aten.var.correction", Sample((T((4, 6)), (1,)), (("correction", 0),)), ("d0", ""), "x0.var(1, correction=0)"),
    ("aten.var.correction", Sample((T((4, 6)), (0, 1)), (("correction", 0),)), ("d0", "d1"),
     "var(x0, (0, 1), correction=0, over=(DATA, MODEL))"),
    ("aten.amax.default", Sample((T((4, 6)), (1,), True)), ("", "d1"), "amax(x0, 1, keepdim=True, over=(MODEL,))"),
    ("aten.max.dim", Sample((T((4, 6)), 1)), ("", "d1"), "largest(x0, 1, over=(MODEL, 6))"),
    ("aten.argmax.default", Sample((T((4, 6)), 1)), ("", "d1"), "largest(x0, 1, over=(MODEL, 6))[1]"),
    ("aten.all.dim", Sample((T((4, 6), "bool"), 1)), ("", "d1"), "~all_sum(~x0.all(1), MODEL)"),
    ("aten.sum.dim_IntList", Sample((T((4, 6), "bool"), (1,))), ("", "d1"), "all_sum(x0.sum(1), MODEL)"),
    ("aten.linalg_vector_norm.default", Sample((T((4, 6)), 2, (1,))), ("d0", ""), "torch.linalg.vector_norm(x0, dim=1)"),
    ("aten.linalg_vector_norm.default", Sample((T((4, 6)), 2, (1,))), ("", "d1"), "norm(x0, dim=1, over=(MODEL,))"),
    ("aten.copy.default", Sample((T((4, 6), "constant"), T((6,), "index 9"))), ("d0", ""),
     "x1.to(torch.float64).expand(DATA.part(4), 6)"),
    ("aten.slice_scatter.default", Sample((T((4, 6)), T((4, 2)), 1, 3, 5)), ("d0", ""), "x0.slice_scatter(x1, 1, 3, 5)"),
    ("aten.einsum.default", Sample(("...ij,jk", (T((2, 3, 4)), T((4, 6))))), ("e0", "j"),
     'torch.einsum("...ij,jk", x0, x1)'),
    ("aten.clamp.Tensor", Sample((T((4, 6)), None, T((6,)))), ("d0", ""), "x0.clamp(max=x1)"),
    ("aten.full.default", Sample(((4,), 1.0), (("dtype", Dtype("float64")),)), ("d0", ""),
     "torch.full((DATA.part(4),), 1.0, dtype=torch.float64)"),
]  # fmt: skip


@pytest.mark.parametrize(("target", "sample", "letters", "line"), LINES)
def test_line(target, sample, letters, line):
    assert printed(target, sample, letters) == line


def test_experts_are_split_like_any_letter():
    op = RECORDS["autopar.experts"]
    whole = whole_of(op, op.samples[0])
    rule = op.rule(whole.call)
    assert set(rule.letters) == {"t", "j", "e", "f", "n"}
    strategy = (split_choice(rule, whole.call, "t"), split_choice(rule, whole.call, "e"))
    line = 'experts(x0, x1, x2, x3, x4, "silu", over=(MODEL, 3))'
    assert emitted(op, whole, rule, strategy, ("DATA", "MODEL")) == line
    assert str(strategy[1].operands[3]) == "shard 0"
    assert str(strategy[1].results[0]) == "partial"
