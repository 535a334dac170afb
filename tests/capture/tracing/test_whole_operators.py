"""Composite operators stay whole with the kernels that torch itself gives them, and have their own again afterwards."""

import torch
from torch._C import DispatchKey
from torch._export.utils import _special_op_to_preserve_cia
from torch._subclasses.fake_impls import op_implementations_dict
from torch.export import exported_program

from autopar.capture.tracing.lean_tracing import lean_tracing
from autopar.capture.tracing.whole_operators import kept_whole

aten = torch.ops.aten
OPS = (aten.linear.default, aten.conv2d.default, aten.relu6.default, aten.layer_norm.default)


def of(op):
    """All that an operator is given: its kernels by key, how it is written out, whether fake tensors have a rule for it."""
    return set(op.py_kernels), op.py_kernels.get(DispatchKey.CompositeImplicitAutograd), op in op_implementations_dict


def test_operators_have_the_kernels_of_torch_and_lose_them_again():
    operators = dict.fromkeys(OPS, _special_op_to_preserve_cia) | {aten.layer_norm.default: torch.layer_norm}
    with exported_program._override_composite_implicit_decomp(operators):
        expected = [of(op) for op in OPS]
    before = [of(op) for op in OPS]
    assert before != expected
    for _ in range(2):
        with kept_whole(operators):
            assert [of(op) for op in OPS] == expected
            assert not any(op._dispatch_cache for op in OPS)
        assert [of(op) for op in OPS] == before
        assert not any(op._dispatch_cache for op in OPS)


def test_kernels_of_somebody_else_are_kept():
    """Those that an operator has when a capture begins, not those of the capture before."""
    op, key, own = aten.relu6.default, DispatchKey.AutogradCPU, lambda *args: NotImplemented
    before = dict(op.py_kernels)
    assert key not in before
    for had in (before, before | {key: own}, before):
        op.py_kernels.clear()
        op.py_kernels.update(had)
        with kept_whole({op: _special_op_to_preserve_cia}):
            assert (op.py_kernels[key] is own) == (key in had)
        assert dict(op.py_kernels) == had


def test_torch_has_its_own_way_again():
    really = exported_program._override_composite_implicit_decomp
    with lean_tracing():
        assert exported_program._override_composite_implicit_decomp is kept_whole
    assert exported_program._override_composite_implicit_decomp is really
