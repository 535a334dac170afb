"""A call in its canonical form is the call: every variation of every record, and others, with dims counted from the end."""

import pytest
import torch
from torch import fx

from autopar.capture.arguments import canonical
from autopar.ir.graph import Dtype, Node, Ref
from autopar.ops.interpreter import run
from autopar.ops.record.fallback import FALLBACK
from autopar.ops.record.op import Sample, T
from autopar.ops.record.overloads import overload_of
from autopar.ops.registry import registry
from autopar.proof.reference import whole_of
from autopar.proof.variations import variations

pytestmark = pytest.mark.filterwarnings("ignore")
UNRECORDED = [
    Sample((T((4, 6)), -1), target="aten.unsqueeze_copy.default"),
    Sample((T((4, 6)), -3), target="aten.unsqueeze_copy.default"),
    Sample((T((4, 6, 2)), -1, -3), target="aten.transpose_copy.int"),
    Sample((T((4, 1, 2)), -2), target="aten.squeeze_copy.dim"),
    Sample((T((4, 6)), T((3, 4, 6)), -2), target="aten.cosine_similarity.default"),
]


def canonical_form(call, tensors):
    """The call as capture would write it, from the FX node that torch.export would make."""
    graph = fx.Graph()
    nodes = {}
    for name, tensor in tensors.items():
        nodes[name] = graph.placeholder(name)
        nodes[name].meta["val"] = tensor

    def given(value):
        if isinstance(value, Ref):
            return nodes[value.name]
        if isinstance(value, Dtype):
            return getattr(torch, value.name)
        return list(map(given, value)) if isinstance(value, tuple) else value

    target = overload_of(call.node.target)
    kwargs = {name: given(value) for name, value in call.node.kwargs}
    node = graph.call_function(target, tuple(map(given, call.node.args)), kwargs)
    return node, lambda one: Ref(one.name)


def counts_from_the_end(sample):
    return not sample.target.startswith("autopar.") and any(
        isinstance(one, int) and one < 0 for arg in sample.args for one in (arg if isinstance(arg, tuple) else [arg])
    )


def same(op, sample, whole):
    tensors = {value.name: tensor for value, tensor in zip(whole.call.operands, whole.operands, strict=True)}
    node, ref = canonical_form(whole.call, tensors)
    node.meta["val"] = whole.results[0] if len(whole.results) == 1 else list(whole.results)
    target, args, kwargs = canonical(node, ref)
    names = tuple(f"y{i}" for i in range(len(whole.results)))
    found = run([Node("call", target, args, kwargs, names)], tensors)
    return all(torch.equal(found[name], result) for name, result in zip(names, whole.results, strict=True))


def test_dims_are_counted_by_the_right_tensor():
    tried = [(FALLBACK, sample, whole_of(FALLBACK, sample)) for sample in UNRECORDED]
    for op in {one.name: one for one in registry().values() if not one.random}.values():
        tried += [(op, one.sample, one.whole) for one in variations(op, 1, counts_from_the_end)]
    wrong = [str(sample) for op, sample, whole in tried if not same(op, sample, whole)]
    assert not wrong
    assert len(tried) > 500
