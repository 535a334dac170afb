"""What the emitted calls look like: the text of a rank-local call for some splits of its letters."""

import pytest
from printed_calls import printed

from autopar.ir.graph import Dtype
from autopar.ops.record.emit_context import EmitContext, Local
from autopar.ops.record.op import Sample, T
from autopar.ops.record.printing import Expr, atom, invoke, literal
from autopar.ops.record.rule import split_choice
from autopar.ops.registry import registry
from autopar.proof.reference import whole_of

RECORDS = registry()

# target, sample, letters split over DATA and MODEL ("" for neither; "n 3 64" for a reading), the line
LINES = [
    ("aten.linear.default", Sample((T((4, 6)), T((8, 6)), T((8,)))), ("b0", "n"), "F.linear(x0, x1, x2)"),
    ("autopar.affine", Sample((T((4, 6)), T((6, 8)), T((8,)))), ("", "k"), "x0 @ x1 + x2"),
    ("aten.add.Tensor", Sample((T((4, 6)), 1.0)), ("", ""), "x0 + 1.0"),
    ("aten.mul.Tensor", Sample((T((4, 6)), -0.5)), ("", ""), "x0 * -0.5"),
    ("aten.rsub.Scalar", Sample((T((4,)), 1)), ("", ""), "1 - x0"),
    ("aten.pow.Tensor_Scalar", Sample((T((4,)), 2)), ("", ""), "x0 ** 2"),
    ("aten.gelu.default", Sample((T((4,)),), (("approximate", "tanh"),)), ("", ""), 'F.gelu(x0, approximate="tanh")'),
    ("aten.layer_norm.default", Sample((T((4, 6)), (6,), T((6,)), T((6,)), 1e-5, True)), ("b0", ""),
     "F.layer_norm(x0, (6,), x1, x2)"),
    ("aten.reshape.default", Sample((T((8, 4, 6)), (32, 6))), ("a", ""), "x0.flatten(0, 1)"),
    ("aten.reshape.default", Sample((T((8, 4, 12)), (8, 4, 3, 4))), ("a", "c"), "x0.unflatten(2, (-1, 4))"),
    ("aten.reshape.default", Sample((T((8, 4, 12)), (8, 4, 3, 4))), ("c", "d"),
     "x0.unflatten(2, (DATA.part(3), MODEL.part(4)))"),
    ("aten.reshape.default", Sample((T((8, 12)), (2, 4, 3, 4))), ("b", "d"),
     "x0.view(2, DATA.part(4), 3, MODEL.part(4))"),
    ("aten.reshape.default", Sample((T((8, 6, 1, 1)), (8, 6))), ("a", ""), "x0.flatten(1)"),
    ("aten.reshape.default", Sample((T((8, 6)), (8, 1, 6))), ("a", ""), "x0.unsqueeze(1)"),
    ("aten.reshape.default", Sample((T((4, 6)), (8, 3))), ("", ""), "x0.reshape(8, 3)"),
    ("aten.transpose.int", Sample((T((2, 3, 4)), 1, 2)), ("d0", ""), "x0.transpose(1, 2)"),
    ("aten.t.default", Sample((T((2, 3)),)), ("d0", ""), "x0.T"),
    ("aten.split.Tensor", Sample((T((4, 12)), 4, 1)), ("", "n"), "x0.chunk(3, 1)"),
    ("aten.split.Tensor", Sample((T((4, 12)), 4, 1)), ("d0", ""), "x0.split(4, 1)"),
    ("aten.expand.default", Sample((T((1, 6)), (4, 6))), ("d0", "d1"), "x0.expand(DATA.part(4), -1)"),
    ("aten.cat.default", Sample(((T((4, 2)), T((4, 2))), 1)), ("", "n"), "torch.cat((x0, x1), 1)"),
    ("aten.slice.Tensor", Sample((T((4, 6)), 1, 0, 5)), ("d0", ""), "x0[:, :5]"),
    ("aten.conv2d.default", Sample((T((2, 3, 8, 8)), T((4, 3, 3, 3)), None, (1, 1), (1, 1))), ("n", "k"),
     "F.conv2d(x0, x1, padding=1)"),
    ("aten.conv2d.default", Sample((T((2, 3, 8, 8)), T((4, 3, 3, 3)), None, (2, 2), (1, 1))), ("h", "w"),
     "conv(x0, x1, stride=2, padding=1, over={2: (DATA, 8), 3: (MODEL, 8)})"),
    ("aten.conv2d.default", Sample((T((2, 4, 8, 8)), T((4, 1, 3, 3)), None, (1, 1), (1, 1), (1, 1), 4)), ("", "g"),
     "F.conv2d(x0, x1, padding=1, groups=MODEL.part(4))"),
    ("aten.max_pool2d.default", Sample((T((2, 3, 8, 8)), (2, 2))), ("n", ""), "F.max_pool2d(x0, 2)"),
    ("aten.max_pool2d.default", Sample((T((2, 3, 8, 8)), (3, 3), (2, 2), (1, 1))), ("h", ""),
     "max_pool(x0, (3, 3), stride=2, padding=1, over={2: (DATA, 8)})"),
    ("aten.adaptive_avg_pool2d.default", Sample((T((2, 3, 8, 4)), (1, 1))), ("h", ""),
     "x0.sum((2, 3), keepdim=True) / 32"),
    ("aten.conv2d.padding", Sample((T((2, 3, 8, 8)), T((4, 3, 2, 2)), None, (1, 1), "same")), ("h", ""),
     "conv(pad(x0, (0, 1, 0, 1), over={2: (DATA, 8)}), x1, over={2: (DATA, 9)})"),
    ("aten.upsample_bilinear2d.vec", Sample((T((2, 3, 8, 8)), None, False, (2.0, 2.0))), ("n", ""),
     'F.interpolate(x0, scale_factor=2.0, mode="bilinear", align_corners=False)'),
    ("aten.upsample_bilinear2d.vec", Sample((T((2, 3, 8, 8)), (9, 5), True, None)), ("h", ""),
     'interpolate(x0, (9, 5), mode="bilinear", align_corners=True, over={2: (DATA, 8)})'),
    ("aten.pad.default", Sample((T((2, 3, 8, 8)), (1, 1, 2, 0), "reflect")), ("d2", ""),
     'pad(x0, (1, 1, 2, 0), mode="reflect", over={2: (DATA, 8)})'),
    ("aten.group_norm.default", Sample((T((2, 4, 6, 5)), 2, T((4,)), T((4,)))), ("g", "s0"),
     "group_norm(x0, DATA.part(2), x1, x2, over=(MODEL,))"),
    ("aten.group_norm.default", Sample((T((2, 4, 6, 5)), 2, T((4,)), T((4,)))), ("n", "g"),
     "F.group_norm(x0, MODEL.part(2), x1, x2)"),
    ("aten.layer_norm.default", Sample((T((4, 6)), (6,), T((6,)), T((6,)))), ("b0", "m0"),
     "layer_norm(x0, 1, x1, x2, over=(MODEL,))"),
    ("aten.softmax.int", Sample((T((4, 6)), -1)), ("b0", ""), "F.softmax(x0, -1)"),
    ("aten.softmax.int", Sample((T((4, 6)), -1)), ("b0", "v"), "softmax(x0, -1, over=(MODEL,))"),
    ("aten.fft_rfft2.default", Sample((T((2, 3, 8, 8)), None, (-2, -1), "ortho")), ("d0", "d1"),
     'torch.fft.rfft2(x0, norm="ortho")'),
    ("aten.mean.dim", Sample((T((4, 6)), (1,))), ("d0", ""), "x0.mean(1)"),
    ("aten.mean.dim", Sample((T((4, 6)), (1,))), ("", "d1"), "x0.sum(1) / 6"),
    ("aten.cross_entropy_loss.default", Sample((T((4, 6)), T((4,), "index 6"))), ("", ""), "F.cross_entropy(x0, x1)"),
    ("aten.cross_entropy_loss.default", Sample((T((4, 6)), T((4,), "index 6"))), ("n", "n"),
     "cross_entropy(x0, x1, over=(DATA, MODEL))"),
    ("aten.mse_loss.default", Sample((T((4, 6)), T((4, 6)))), ("d0", ""), 'F.mse_loss(x0, x1, reduction="sum") / 24'),
    ("aten.zeros.default", Sample(((4, 6),), (("dtype", Dtype("int64")),)), ("d0", ""),
     "torch.zeros((DATA.part(4), 6), dtype=torch.int64)"),
    ("aten.embedding.default", Sample((T((7, 4)), T((3,), "index 7"))), ("b0", "d"), "F.embedding(x1, x0)"),
    ("aten.scaled_dot_product_attention.default", Sample((*[T((2, 4, 3, 2))] * 3, None, 0.0, True)), ("b0", "b1"),
     "F.scaled_dot_product_attention(x0, x1, x2, is_causal=True)"),
    ("aten.scaled_dot_product_attention.default", Sample((*[T((2, 4, 3, 2))] * 3, None, 0.0, True)), ("t", "b1"),
     "attention(x0, x1, x2, is_causal=True, over={2: (DATA, 3)})"),
    ("aten.scaled_dot_product_attention.default", Sample((*[T((2, 4, 3, 2))] * 3,)), ("t", "b1"),
     "F.scaled_dot_product_attention(x0, x1, x2)"),
    ("aten.scaled_dot_product_attention.default", Sample((*[T((2, 4, 3, 2))] * 3, None, 0.1)), ("s", "b1"),
     "attention(x0, x1, x2, dropout_p=0.1, over={1: (MODEL, 4), 3: (DATA, 3)})"),
    ("aten.dropout.default", Sample((T((4, 3, 6)), 0.1, True)), ("d0", "d2"),
     "dropout(x0, 0.1, over={0: (DATA, 4), 2: (MODEL, 6)})"),
    ("aten.dropout.default", Sample((T((4, 6)), 0.1, True)), ("d0", "d0"),
     "dropout(x0, 0.1, over={0: ((DATA, 4), (MODEL, 4))})"),
    ("aten.rand.default", Sample(((4, 1, 1),), (("dtype", Dtype("float64")),)), ("d0", ""),
     "rand((DATA.part(4), 1, 1), over={0: (DATA, 4)}, dtype=torch.float64)"),
    ("aten.cross_entropy_loss.default", Sample((T((4, 6)), T((4,), "index 6"))), ("n", "v"),
     "cross_entropy(x0, x1, over=(DATA,), classes=(MODEL, 6))"),
    ("aten.embedding.default", Sample((T((8, 4)), T((3,), "index 8"), 2)), ("v", "d"),
     "embedding(x1, x0, padding_idx=2, over=(DATA, 8))"),
    ("autopar.batch_norm",
     Sample((T((4, 3)), T((3,)), T((3,)), T((3,), "constant"), T((3,), "positive"), 0.1, 1e-5)), ("n", ""),
     "batch_norm(x0, x1, x2, x3, x4, training=p.training, over=(DATA,))"),
]  # fmt: skip


@pytest.mark.parametrize(("target", "sample", "letters", "line"), LINES)
def test_line(target, sample, letters, line):
    assert printed(target, sample, letters) == line


def test_a_fused_projection_is_split_by_heads():
    """2304 = 3 x 12 x 64 columns of which each rank takes some heads' 64 of each of the three."""
    op = RECORDS["aten.split.Tensor"]
    whole = whole_of(op, Sample((T((2, 36)), 12, 1)))
    choice = split_choice(op.rule(whole.call), whole.call, "n", 1, 4)
    assert str(choice.operands[0]) == "shard 1 as 3x_x4"
    assert [str(one) for one in choice.results] == ["shard 1 as 1x_x4"] * 3


def test_brackets():
    assert atom(Expr("a + b", atom=False)) == "(a + b)"
    assert atom(Expr("a.b")) == "a.b"
    assert atom(-1) == "(-1)"
    sample = Sample((T((4, 6)), T((4, 6))))
    op, whole = RECORDS["aten.mul.Tensor"], whole_of(RECORDS["aten.mul.Tensor"], sample)
    args = (Expr("a + b", atom=False), Expr("c"))
    assert op.emit(EmitContext(whole.call, op.rule(whole.call), Local(), args, {})) == "(a + b) * c"


def test_literals():
    assert literal(float("-inf")) == 'float("-inf")'
    assert literal((Expr("x"),)) == "(x,)"
    assert invoke("f", (Expr("x"), None), [("p", 1, 1), ("q", True, 1), ("r", None, None)]) == "f(x, q=True)"
