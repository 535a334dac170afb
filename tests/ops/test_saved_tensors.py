"""What autograd really keeps of every sample of every record, beside what the record says."""

import pytest
import torch
from rule_proof import samples_of

from autopar.costmodel import memory
from autopar.ir.grid import GridShape
from autopar.ops.record.rule import whole_choice
from autopar.ops.registry import registry
from autopar.proof.record_proof import NAMES, emitted
from autopar.proof.reference import whole_of
from autopar.runtime.grid.counter_rng import drawing

OPS = {op.name: op for op in registry().values()}
ONE = GridShape.parse("1")
SCALARS = 20  # bytes: a count or a weight that is kept as a tensor is not worth a word
FACTOR = 10

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

# Records whose words are an estimate, within `FACTOR`, with the reason.
ESTIMATES = {
    **dict.fromkeys(
        ("det", "slogdet", "solve", "eigvalsh", "svdvals", "matrix_power", "batched logdet", "batched linalg_eigvals"),
        "factors of a matrix, as LAPACK makes them",
    ),
    **dict.fromkeys(("experts", "expert_linear"), "rows are gathered by expert, as many as are routed there"),
    **dict.fromkeys(("cosine_similarity", "quantile", "nanmean", "weight_norm", "ldexp"), "made of several operators"),
    **dict.fromkeys(("einsum", "multi_dot", "tensordot"), "products of some operands in torch's order, or copies"),
    **dict.fromkeys(("matmul", "take_along_dim", "repeat_each"), "an operand that is broadcast is expanded first"),
    "recurrent": "the gates of every step and layer",
    "fourier": "an operand is padded or cut first",
}


def really_kept(whole, line):
    """Bytes of every operand and result that autograd keeps, and of other tensors under the name "" together."""
    inputs = [
        tensor.clone().requires_grad_(gradient is not None)
        for tensor, gradient in zip(whole.operands, whole.gradients, strict=True)
    ]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: saved.append(one) or one, lambda one: one), drawing(0, 0):
        out = eval(line, NAMES | {f"x{i}": tensor for i, tensor in enumerate(inputs)})
    results = [one for one in ((out,) if isinstance(out, torch.Tensor) else out) if isinstance(one, torch.Tensor)]
    names = {place(one): f"y{i}" for i, one in enumerate(results)} | {
        place(one): f"x{i}" for i, one in enumerate(inputs)
    }
    found, seen = {}, set()
    for one in saved:
        if place(one) not in seen and one.numel():
            seen.add(place(one))
            name = names.get(place(one), "")
            found[name] = found.get(name, 0) + one.untyped_storage().nbytes()
    return found, any(one.requires_grad for one in results)


def place(tensor):
    return tensor.untyped_storage().data_ptr()


def test_kept():
    """One test of all records: each takes less time than pytest takes for a test."""
    wrong = [f"{name}: {text}" for name, op in sorted(OPS.items()) for text in misjudged(op)]
    assert not wrong, "\n".join(wrong)


def misjudged(op):
    """The record's samples of which it says something else than what autograd keeps."""
    for sample in samples_of(op):
        whole = whole_of(op, sample)
        try:
            rule = op.rule(whole.call)
        except ValueError:
            continue
        strategy = (whole_choice(whole.call, "copied"),)
        line = emitted(op, whole, rule, strategy, ("axis",))
        found, flows = really_kept(whole, line)
        if not flows or (line == "x0" and not found):
            continue
        said = {}
        for value, size in memory.kept(whole.call, rule, op, strategy, ONE):
            said[value] = said.get(value, 0) + size
        total, real = sum(said.values()), sum(found.values())
        if op.name in ESTIMATES:
            room = 2 * sum(tensor.nbytes for tensor in whole.operands)
            right = real <= FACTOR * total + SCALARS and total <= FACTOR * real + room
        else:
            right = operands(said) == operands(found) and abs(total - real) <= SCALARS
        if not right:
            yield f"{line}: keeps {found}, and the record says {said}"


def operands(sizes):
    """The operands among them that are worth a word."""
    return {name: size for name, size in sizes.items() if name.startswith("x") and size > SCALARS}
