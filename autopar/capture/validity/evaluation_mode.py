"""Whether the program of a training step can also evaluate: what a model does otherwise in evaluation than in training.

A program has one flag, ``p.training``: batch norms use their running statistics and dropout drops nothing where it is
false. So forward is run twice on fake tensors, in training and in evaluation, and its calls are compared in order; they
must be the same but for dropout, the counting of batches, and the flag of batch norms.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from autopar.capture.passes.drop_path import without_paths
from autopar.capture.state.fake_run import exporting, on_fakes
from autopar.capture.tracing.known_numbers import KnownNumbers
from autopar.capture.tracing.reworded_calls import largest_shapes, rewording
from autopar.capture.tracing.row_pointers import Pointer

_DROPOUT = frozenset(
    {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"}
)
_RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})
_FLAGS = frozenset({"training", "dropout_p"})
_QUIET = frozenset(
    {"__get__", "__set__", "dim", "size", "numel", "is_floating_point", "__len__", "__hash__", "__format__"}
)
_BATCH_NORM = "batch_norm"
Call = tuple[object, ...]


class _Log(TorchFunctionMode):
    """Every torch call of forward: its name, the shapes of its tensors and its literals."""

    def __init__(self, counters: frozenset[int], evaluating: bool, *, exact: bool) -> None:
        super().__init__()
        self._evaluating = evaluating
        self._exact = exact
        self.calls: list[Call] = []
        self._counters = counters

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Note the call and make it."""
        named, name = dict(kwargs or {}), getattr(func, "__name__", str(func))
        if self._evaluating and _drops(name, args, named):
            self.calls.append((name, "that drops something"))
        if name == _BATCH_NORM:
            self.calls.append(_batch_norm(*args, **named))
        elif name in _RECURRENT:  # among its arguments, dropout and whether it trains
            whole = self._exact and any(isinstance(arg, float) and arg for arg in args)
            self.calls.append(
                (name, *map(_literal, (arg for arg in args if whole or not isinstance(arg, bool | float))))
            )
        elif name not in _DROPOUT | _QUIET and not (args and id(args[0]) in self._counters):
            literals = tuple((key, _literal(named[key])) for key in sorted(named.keys() - _FLAGS))
            self.calls.append((name, *map(_literal, args), *literals))
        return func(*args, **named)


def evaluation(
    module: nn.Module,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    fake: FakeTensorMode | None,
    paths: int = 0,
) -> str:
    """Why a program of the module as it stands cannot evaluate; empty where it can.

    `fake` is the mode of a module without memory, `paths` the number of drop paths in the program.
    """
    if not any(part.training for part in module.modules()):
        return ""
    try:
        training, evaluating = (calls(module, mode, args, kwargs, fake) for mode in (None, False))
    except Exception as error:  # forward is the user's, and fake tensors have their own limits
        return f"forward cannot be tried in evaluation: {first_line(error)}"
    for call, other in itertools.zip_longest(without_paths(training, paths), evaluating):
        if not _alike(call, other):
            return f"forward {call_text(call)} in training, and {call_text(other)} in evaluation"
    return ""


def first_line(error: Exception) -> str:
    """The kind of an error and the beginning of its message."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"


def calls(
    module: nn.Module,
    mode: bool | None,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    fake: FakeTensorMode | None,
    *,
    exact: bool = False,
) -> list[Call]:
    """What forward calls in training, in evaluation, or as the module stands; `exact` with all that a mode changes."""

    def work(faking: FakeTensorMode) -> list[Call]:
        inputs, named = (
            tree_map_only(Tensor, faking.from_tensor, (args, dict(kwargs))) if fake is None else (args, kwargs)
        )
        if mode is not None:
            module.train(mode)
        counters = frozenset(id(x) for name, x in module.named_buffers() if name.endswith("num_batches_tracked"))
        log = _Log(frozenset() if exact else counters, exact or not module.training, exact=exact)
        with KnownNumbers(), rewording(), largest_shapes(), log, exporting():
            module(*inputs, **named)
        return log.calls

    return on_fakes(module, fake, work)


def _drops(name: str, args: Sequence[Any], named: Mapping[str, Any]) -> bool:
    """Whether a call is a dropout that is on: in evaluation, too, where the model does not say otherwise."""
    if name == "scaled_dot_product_attention":
        return bool(named.get("dropout_p", args[4] if len(args) > 4 else 0.0))
    on = named.get("training", named.get("train", args[2] if len(args) > 2 else True))
    return name in _DROPOUT and on is not False and bool(named.get("p", args[1] if len(args) > 1 else 0.5))


def _literal(value: object) -> object:
    if isinstance(value, Pointer):
        return "a number in a tensor"
    if isinstance(value, Tensor):
        return ("tensor", *value.shape)
    if isinstance(value, tuple | list):
        return tuple(map(_literal, value))
    return value if isinstance(value, bool | int | float | str | torch.dtype | None) else type(value).__name__


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Call:
    return (_BATCH_NORM, _literal(x), eps, running_mean is not None, training)


def _alike(call: Call | None, other: Call | None) -> bool:
    """Whether the two modes make the same call; a batch norm that keeps statistics must take its batch's in training only."""
    if call is None or other is None or call[0] != other[0] or call[0] != _BATCH_NORM:
        return call == other
    kept, training, evaluating = call[-2], call[-1], other[-1]
    return call[:-1] == other[:-1] and (evaluating == (training and not kept))


def call_text(call: Call | None) -> str:
    """What forward does by this call."""
    return f"calls {call[0]}({', '.join(map(str, call[1:]))})"[:120] if call else "calls nothing more"
