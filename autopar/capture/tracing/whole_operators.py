"""Composite operators that stay whole calls while a program is decomposed, with their kernels entered all at once.

``ExportedProgram.run_decompositions`` gives each of five hundred composite operators 22 kernels, one by one, and takes them away
again: of a small model that is most of its time. What an operator is given depends on the kernels that it had, and so is
torch's own doing once, and a copy of it from then on.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch._export.utils import _special_op_to_preserve_cia
from torch._subclasses.fake_impls import op_implementations_dict
from torch.export import exported_program

_by_torch = exported_program._override_composite_implicit_decomp


@contextlib.contextmanager
def kept_whole(operators: Mapping[Any, Callable[..., object]]) -> Iterator[None]:
    """torch's ``_override_composite_implicit_decomp``: while active, these operators are written out by these functions."""
    whole = [op for op, written_out in operators.items() if written_out is _special_op_to_preserve_cia]
    before = [op.py_kernels.copy() for op in whole]
    with _by_torch({op: operators[op] for op in operators.keys() - whole}):
        for op in whole:
            kernels, rule = _given(op, tuple(op.py_kernels.items()), op_implementations_dict.get(op))
            _enter(op, kernels)
            op_implementations_dict[op] = rule
        try:
            yield
        finally:
            for op, kernels in zip(whole, before, strict=True):
                _enter(op, kernels)
                op_implementations_dict.pop(op, None)  # as torch does, whoever entered it


def _enter(op: Any, kernels: Mapping[Any, object]) -> None:  # noqa: ANN401 (an operator of torch)
    op.py_kernels.clear()
    op.py_kernels.update(kernels)
    op._dispatch_cache.clear()


@functools.lru_cache(maxsize=4096)
def _given(op: Any, had: object, rule: object) -> tuple[dict[Any, object], Any]:  # noqa: ANN401 (an operator of torch)
    """The kernels that torch gives an operator which had these, and its rule for fake tensors."""
    with _by_torch({op: _special_op_to_preserve_cia}):
        return dict(op.py_kernels), op_implementations_dict.get(op)
