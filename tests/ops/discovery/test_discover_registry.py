"""Discovery against the hand-written records: each hidden in turn, its samples searched, what is found compared and proved."""

import functools

import msgspec
import pytest

from autopar.ops.discovery.call_shape import form_of
from autopar.ops.discovery.record import record
from autopar.ops.discovery.sandbox import in_child
from autopar.ops.discovery.search import Verdict, search
from autopar.ops.record.op import Sample
from autopar.ops.registry import registry
from autopar.proof.record_proof import prove
from autopar.proof.reference import whole_of

OPS = {op.name: op for op in registry().values()}
SAMPLES = {
    name: [sample for sample in op.samples if not (sample.target or op.targets[0]).startswith("autopar.")]
    for name, op in OPS.items()
}
CRASH = ("recurrent",)  # torch hands operands of any shape to a library
NAMES = sorted(name for name, samples in SAMPLES.items() if samples)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # torch on parts without rows

# Every letter of every sample, of operators of all kinds; not those that need neighbours, or sums inside.
WHOLLY = (
    "linear", "matmul", "addmm", "addbmm", "bilinear", "einsum", "tensordot", "inner", "outer", "vecdot", "addr", "trace",
    "add", "mul", "where", "masked_fill", "relu", "gelu", "softplus", "prelu", "clamp", "lerp", "addcmul", "bitwise_not",
    "prod", "sort", "topk", "cummax", "kthvalue", "median", "quantile", "logcumsumexp", "diff", "searchsorted",
    "permute", "unsqueeze", "stack", "diagonal", "diag_embed", "grid_sample",
)  # fmt: skip

EVERY_TIME = sorted({*WHOLLY, *CRASH, *NAMES[::10]})  # the others' searches are in `make zoo`


def searched(names):
    """Per operator the verdicts of a search that knows nothing of its record; None where that crashed."""
    forms = {name: [form_of(call) for _, call in calls(name)] for name in names}
    answer = in_child(lambda: msgspec.json.encode({name: list(map(search, forms[name])) for name in names}), 900.0)
    return None if answer is None else msgspec.json.decode(answer, type=dict[str, list[Verdict]])


@functools.cache
def calls(name):
    return [(sample, whole_of(OPS[name], sample).call) for sample in SAMPLES[name]]


@pytest.fixture(scope="module")
def verdicts(request):
    """What is found for every sample. An operator that crashes on operands it was not made for offers nothing."""
    tests = [item for item in request.session.items if item.path == request.path]
    chosen = NAMES if any(item.get_closest_marker("zoo") for item in tests) else EVERY_TIME
    found, todo = {}, [[name for name in chosen if name not in CRASH], *([name] for name in chosen if name in CRASH)]
    while todo:
        names = todo.pop()
        some = searched(names)
        if some is None and len(names) > 1:
            todo += [names[::2], names[1::2]]
        found |= some or ({names[0]: [Verdict() for _ in SAMPLES[names[0]]]} if len(names) == 1 else {})
    return found


def by_dims(rule):
    """The letters as the dims that have them: what names cannot hide."""

    def dims(letter, tensors):
        return tuple(next((d for d, names in enumerate(one) if letter in names), -1) for one in tensors)

    return {(dims(letter, rule.operands), dims(letter, rule.results)) for letter in rule.letters}


def given(name):
    return [Sample(one.args, one.kwargs, one.target or OPS[name].targets[0]) for one in SAMPLES[name]]


@pytest.mark.parametrize("name", [n if n in EVERY_TIME else pytest.param(n, marks=pytest.mark.zoo) for n in NAMES])
def test_every_letter_that_is_offered_is_right(name, verdicts):
    for sample, (_, call), verdict in zip(given(name), calls(name), verdicts[name], strict=True):
        if verdict.letters:
            assert prove(record(form_of(call), verdict), sample, grids=("data=2",)) > 0


@pytest.mark.parametrize("name", WHOLLY)
def test_all_letters_are_found(name, verdicts):
    """Those of the hand-written record, for each of its samples."""
    for (_, call), verdict in zip(calls(name), verdicts[name], strict=True):
        op, wanted = record(form_of(call), verdict), by_dims(OPS[name].rule(call))
        assert (by_dims(op.rule(call)) if verdict.letters else set()) >= wanted, call


@pytest.mark.zoo
def test_how_many_operators_need_no_record(verdicts):
    """Far more than twenty operators would be split as well without their record."""
    complete = [
        name
        for name in NAMES
        if all(
            verdict.letters and by_dims(record(form_of(call), verdict).rule(call)) >= by_dims(OPS[name].rule(call))
            for (_, call), verdict in zip(calls(name), verdicts[name], strict=True)
        )
    ]
    assert len(complete) >= 150, complete
