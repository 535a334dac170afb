"""What autograd keeps of a call for its backward, in words, where `Op.saves` is too coarse.

    x1          operand 1, where the call has it             x0/1   the same, only where operand 1 has a gradient
    y0          result 0                                     ints   the operands that are whole numbers or booleans
    inputs      all operands
    =x0  =y0    a new tensor like operand 0, result 0        ~x0    operand 0 with its neighbours' rows, as windows read it
    8:y0        8 bytes for every element of result 0        8@n,c  8 bytes for every element of the letters n and c;
                                                                    h+1 is the letter h with one row more

Found in torch's derivatives (tools/autograd/derivatives.yaml), and proved by execution: a test compares every sample of
every record with what `torch.autograd.graph.saved_tensors_hooks` sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from autopar.ir.graph import ITEMSIZE
from autopar.ops.record.op import Op
from autopar.ops.record.rule import Call, Rule

Words = str | Callable[[Call, Rule, Collection[str]], str]


def words(call: Call, rule: Rule, op: Op, split: Collection[str]) -> str:
    """What the call keeps where these letters are split."""
    kept = op.keeps if op.keeps is not None else _KEPT.get(op.name) if _ours(op) else None
    if kept is None or rule.refused:  # words are of the record's letters
        return {"inputs": "inputs", "output": " ".join(f"y{i}" for i in range(len(call.results)))}.get(op.saves, "")
    return kept if isinstance(kept, str) else kept(call, rule, split)


def scratch(call: Call, rule: Rule, op: Op, split: Collection[str]) -> tuple[str, str]:
    """Tensors that come and go while the call runs, forward and backward, in the same words: beside operands, results and
    gradients the most that is held at once."""
    text = _SCRATCH.get(op.name) if _ours(op) and not rule.refused else None
    return text(call, rule, split) if callable(text) else text or ("", "")


def _ours(op: Op) -> bool:
    """Whether the record is the library's: a user's, and one that was discovered, may have the name of one of ours."""
    from autopar.ops.registry import registry

    record = registry().get(op.targets[0]) if op.targets else None
    return record is not None and (record.name, record.note) == (op.name, op.note)


def _size(call: Call) -> int:
    return ITEMSIZE[call.operands[0].dtype]


def _of(rule: Rule, *, but: Collection[str] = ()) -> str:
    """The letters of operand 0 except some, as a word lists them."""
    return ",".join(name for dim in rule.operands[0] for name in dim if name not in but)


def _reaching(rule: Rule, split: Collection[str]) -> bool:
    """Whether windows need rows of neighbours; where kernel and stride are equal, cuts fall between windows."""
    return any(name in split and window.kernel != window.stride for name, window in rule.windows.items())


def _windowed(rest: str) -> Words:
    """Operand 0 as the window reads it, and the rest."""

    def kept(call: Call, rule: Rule, split: Collection[str]) -> str:
        if call.node.target.endswith(".padding") and call.arg(4, "padding", "valid") == "same" and not split:
            return f"{_same(call, rule)} {rest}"
        return f"{'~' if _reaching(rule, split) else ''}x0 {rest}"

    return kept


def _same(call: Call, rule: Rule) -> str:
    """Padding to the same extent by an odd number of rows takes a copy with one row more."""
    odd = [name for name, window in rule.windows.items() if window.dilation * (window.kernel - 1) % 2]
    named = (f"{name}+1" if name in odd else name for dim in rule.operands[0] for name in dim)
    return f"{_size(call)}@{','.join(named)}" if odd else "x0"


def _adaptive(call: Call, rule: Rule, split: Collection[str]) -> str:
    """Down to one row it is a mean."""
    spatial = int(call.node.target.split("pool")[1][0])
    return "" if all(n == 1 for n in call.results[0].shape[-spatial:]) else "x0"


def _attention(call: Call, rule: Rule, split: Collection[str]) -> str:
    """The flash kernel keeps its result and a number per row; torch's plain form scaled factors and probabilities."""
    q, k, v = call.operands[:3]
    mask = call.operands[3:]
    dropped = bool(call.arg(4, "dropout_p", 0.0))
    plain = len(q.shape) != 4 or q.shape[-1] != v.shape[-1] or any(operand.differentiable for operand in mask)
    rows = f"{max(4, _size(call))}@{_of(rule, but='e')}"
    if not plain or dropped or "s" in split:
        return f"x0 x1 x2 y0 {rows}"
    probabilities = f"{_size(call)}@{_of(rule, but='e')},s"
    if len(q.shape) > 2 and q.shape[-3] != k.shape[-3] and call.arg(7, "enable_gqa", False):
        heads = _of(rule, but="te")
        return f"=x0 {_size(call)}@{heads},s,e {_size(call)}@{heads},s,f {probabilities}"
    return f"=x0 =x1 x2 {probabilities}"


def _normalised(call: Call, rule: Rule, split: Collection[str]) -> str:
    """Two statistics per row."""
    return f"inputs {2 * _size(call)}@{_of(rule, but=rule.whole)}"


def _root_mean_square(call: Call, rule: Rule, split: Collection[str]) -> str:
    return f"x0 x1 {'=x0 ' * (len(call.operands) > 1)}{_size(call)}@{_of(rule, but=rule.whole)}"


def _batch_normalised(call: Call, rule: Rule, split: Collection[str]) -> str:
    """Operand, weight and running statistics, and those of the batch."""
    running = " ".join(f"x{i}" for i in range(max(1, len(call.operands) - 2), len(call.operands)))
    weight = " x1" if len(call.operands) > 3 else ""
    return f"x0{weight} {running} {2 * _size(call)}@c"


def _still_normalised(call: Call, rule: Rule, split: Collection[str]) -> str:
    """Operand, weight and running statistics."""
    return _batch_normalised(call, rule, split).rsplit(" ", 1)[0]


def _batch_alone(call: Call, rule: Rule, split: Collection[str]) -> str:
    """Operand, weight, and the statistics of the batch."""
    return f"x0 x1 {2 * _size(call)}@c"


def _instance_normalised(call: Call, rule: Rule, split: Collection[str]) -> str:
    """By its own statistics, with weights for every sample; or by running ones."""
    if call.arg(5, "use_input_stats", True) is False:
        return "inputs"
    return f"x0 {(3 if len(call.operands) > 1 else 2) * _size(call)}@n,c"


def _group_normalised(call: Call, rule: Rule, split: Collection[str]) -> str:
    return f"x0 {'x1 ' * (len(call.operands) > 1)}{2 * _size(call)}@n,g"


def _mask(call: Call, rule: Rule, split: Collection[str]) -> str:
    """A byte per element, unless nothing is dropped."""
    dropping = call.arg(1, "p", 0.5) != 0 and call.arg(2, "train", True) is not False
    return "1:y0" if dropping else ""


def _alpha_mask(call: Call, rule: Rule, split: Collection[str]) -> str:
    return "" if call.arg(1, "p", 0.5) == 1 else _mask(call, rule, split)


def _channel_mask(call: Call, rule: Rule, split: Collection[str]) -> str:
    first = ",".join(name for dim in rule.operands[0][:2] for name in dim)
    return f"1@{first}" if _mask(call, rule, split) else ""


def _path_mask(call: Call, rule: Rule, split: Collection[str]) -> str:
    return f"{_size(call)}@{','.join(rule.operands[0][0])}"


def _power(call: Call, rule: Rule, split: Collection[str]) -> str:
    if len(call.operands) > 1:
        return "x0 x1 y0"
    return "x0 y0" if isinstance(call.node.args[0], int | float) else "x0"


def _entropy(call: Call, rule: Rule, split: Collection[str]) -> str:
    """The logarithms of the probabilities; and where the targets are probabilities, what they are multiplied with."""
    if _classes(rule) & set(split):  # every rank keeps its columns, and a number per sample
        return "x0 x1 x2"
    if _counts(call):
        return "=x0 x1 x2"
    smoothed = len(call.operands) > 2 or call.arg(5, "label_smoothing", 0.0) != 0
    learned = "x1 " * call.operands[1].differentiable  # the targets have a gradient themselves
    return f"=x0 =x0 {learned}x2" if smoothed else "=x0 x1"


def _classes(rule: Rule) -> set[str]:
    dims = rule.operands[0]
    return set(dims[min(1, len(dims) - 1)])


def _counts(call: Call) -> bool:
    return call.operands[1].dtype.startswith("int")


def _extreme(call: Call, rule: Rule, split: Collection[str]) -> str:
    """Of a whole tensor the value is looked for again; along a dim its place is kept."""
    return "x0 y0" if call.node.target.endswith(".default") else "8:y0"


def _product(call: Call, rule: Rule, split: Collection[str]) -> str:
    return "inputs" if len(call.operands) > 1 else ""


def _several(call: Call, rule: Rule, split: Collection[str]) -> str:
    return "inputs" if len(call.operands) > 2 else ""


def _padded(call: Call, rule: Rule, split: Collection[str]) -> str:
    return "x0" if call.arg(2, "mode", "constant") in ("reflect", "replicate") else ""


def _transformed(call: Call, rule: Rule, split: Collection[str]) -> str:
    """A transform of real numbers keeps them, for their extent."""
    return "x0" if not call.operands[0].dtype.startswith("complex") and len(call.results) == 1 else ""


def _scattered(call: Call, rule: Rule, split: Collection[str]) -> str:
    return "x0 x1 x2 y0" if "reduce" in call.node.target.split(".")[1] else "ints"


_FACTORS, _OTHER_FACTORS = "x0/1 x1/0", "x1/2 x2/1"
_KEPT: dict[str, Words] = {
    "linear": _FACTORS, "affine": _FACTORS, "mul": _FACTORS, "matmul": _FACTORS,
    "addmm": _OTHER_FACTORS, "addbmm": _OTHER_FACTORS, "addmv": _OTHER_FACTORS, "addr": _OTHER_FACTORS,
    "addcmul": _OTHER_FACTORS, "addcdiv": "x1/2 x2", "div": "x1 x0/1", "fmod": "x1 x0/1", "remainder": "x1 x0/1",
    "bilinear": "x0 x1 x2", "einsum": _product, "lerp": _several, "pow": _power, "float_power": _power,
    "conv": _windowed("x1"), "conv_transpose": _windowed("x1"), "max_pool": _windowed("8:y0"), "avg_pool": _windowed(""),
    "adaptive_avg_pool": _adaptive, "adaptive_max_pool": "x0 8:y0", "pad": _padded,
    "attention": _attention, "layer_norm": _normalised, "rms_norm": _root_mean_square, "batch_norm": _batch_normalised,
    "batch_norm_still": _still_normalised,
    "batch_norm_unkept": _batch_alone, "instance_norm": _instance_normalised, "group_norm": _group_normalised,
    "cross_entropy": _entropy, "l1_loss": "=x0", "kl_div": "x1 x0/1", "pairwise_distance": "=x0 y0",
    "dropout": _mask, "alpha_dropout": _alpha_mask, "feature_dropout": _channel_mask, "drop_path": _path_mask,
    "index": "ints", "index_put": "ints", "index_select": "ints", "index_add": "x1 x2", "embedding": "ints",
    "masked_fill": "ints", "masked_scatter": "ints", "where": "ints", "scatter": _scattered, "max_unpool": "ints",
    "sort": "8:y0", "stable_sort": "8:y0", "topk": "8:y0", "kthvalue": "8:y0", "median": "8:y0", "mode": "8:y0",
    "max": _extreme, "min": _extreme, "cummax": "x0 8:y0", "cummin": "x0 8:y0", "amax": "x0 y0", "amin": "x0 y0",
    "aminmax": "x0 y0 y1",
    "frexp": "y1",
    "logsumexp": "x0 y0", "logcumsumexp": "x0 y0", "log_sigmoid": "x0 =x0", "norm": "x0 y0", "prod": "x0 y0",
    "cumprod": "x0 y0", "std": "x0 y0", "std_mean": "x0 y0", "cdist": "x0 x1 y0", "hypot": "x0 x1 y0",
    "copysign": "x0 y0", "complex": "x0 x1", "sgn": "x0 y0", "qr": "y0 y1", "inv": "y0", "cholesky": "y0",
    "eigh": "y0 y1", "solve_triangular": "x0 y0", "rot90": "",
    "fourier": _transformed,
    **dict.fromkeys(("special_erfcx", "special_i0e", "special_i1", "special_i1e", "special_log_ndtr"), "x0 y0"),
    "elu": "x0", "selu": "x0", "erfinv": "x0", "special_ndtri": "y0",
}  # fmt: skip


def _conv_scratch(call: Call, rule: Rule, split: Collection[str]) -> tuple[str, str]:
    """oneDNN works in an order of its own, with channels in blocks of 16.

    Images that are not split lie in an order that it takes, and only weights are copied. Else operand and weight are copied while
    the result is made, and given back before that is copied out; where it has fewer channels the blocks are filled up. Backward
    copies the result's gradient and the operand.
    """
    x, weight, y = call.operands[0], call.operands[1].shape, call.results[0]
    pointwise = all(n == 1 for n in weight[2:])
    if len(weight) == 4 and (pointwise or not _reaching(rule, split)):
        return "=x1", "=x1 =x1"
    if pointwise:
        return "", "=x0" if len(weight) == 5 else ""
    at, size = len(x.shape) - len(weight) + 1, _size(call)
    read, written = (-(-size * _blocks(tensor.shape[at]) // tensor.shape[at]) for tensor in (x, y))
    back = f"{written}:y0 {read - size if read > size else size}:x0"
    if ".conv_transpose" in call.node.target and _strided(call):
        return f"{2 * size}:y0", back
    copied = math.prod(x.shape) * size + math.prod(weight) * size + math.prod(y.shape) * (written - size)
    if x.shape[at] < _BLOCK or copied < math.prod(y.shape) * written:
        return f"{written}:y0", back
    return f"=x0 =x1 {written - size}:y0", back


def _strided(call: Call) -> bool:
    stride = call.arg(3, "stride", 1)
    return any(n != 1 for n in (stride if isinstance(stride, list | tuple) else [stride]))


_BLOCK = 16


def _blocks(channels: int) -> int:
    """So many channels in whole blocks."""
    return -(-channels // _BLOCK) * _BLOCK


def _entropy_scratch(call: Call, rule: Rule, split: Collection[str]) -> tuple[str, str]:
    """Backward goes by way of the gradient of the logarithms; over split classes, forward by way of exponentials."""
    return ("=x0", "") if _classes(rule) & set(split) else ("", "=x0")


def _batch_scratch(call: Call, rule: Rule, split: Collection[str]) -> tuple[str, str]:
    return ("", "=x0") if rule.whole.keys() & set(split) else ("", "")


_LOSS = ("=x0", "")
_SCRATCH: dict[str, tuple[str, str] | Callable[[Call, Rule, Collection[str]], tuple[str, str]]] = {
    "affine": ("=y0", ""), "conv": _conv_scratch, "conv_transpose": _conv_scratch, "batch_norm": _batch_scratch,
    "cross_entropy": _entropy_scratch,
    "mse_loss": _LOSS, "l1_loss": _LOSS, "smooth_l1_loss": _LOSS, "huber_loss": _LOSS,
}  # fmt: skip
