"""Every record of the library, proved by execution; and wrong records, which the proof must reject."""

from dataclasses import replace

import pytest
import rule_proof
from rule_proof import mutant, prove

from autopar.layout import Copied, Partial, Replicate
from autopar.ops.fallback import FALLBACK
from autopar.ops.op import Sample, T, registry
from autopar.ops.rule import with_linear

OPS = {op.name: op for op in registry().values()}
SEVERAL = ("split", "max", "min", "sort", "topk", "max_pool", "batch_norm")  # operators with several results

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # torch on parts without rows


@pytest.mark.parametrize("name", sorted(OPS))
def test_record(name):
    op = OPS[name]
    assert op.samples or name == "empty"
    for sample in op.samples:
        assert prove(op, sample) > 0


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("only", [0, 1])
def test_one_result_read(name, only):
    op = OPS[name]
    several = [s for s in op.samples if name not in ("max", "min") or not s.target]
    several = [s for s in several if name != "max_pool" or "indices" in s.target]
    assert several
    for sample in several:
        assert prove(op, sample, lambda i: i == only) > 0


@pytest.mark.parametrize(
    "sample",
    [
        Sample((T((4, 6)),), target="aten.diff.default"),
        Sample((T((4, 4)), 1), target="aten.diagonal.default"),
        Sample((T((4, 6)), T((3, 6))), target="aten.cdist.default"),
        Sample((T((4, 6)), (T((4, 6), "bool"),), T(())), target="aten.index_put.default"),
        Sample((T((4, 6)), 0.0, True), target="aten.feature_dropout.default"),
    ],
    ids=lambda sample: sample.target,
)
def test_fallback(sample):
    """Any other operator is right as a whole, in both meanings."""
    assert prove(FALLBACK, sample) >= 1


def _unfrozen(*letters):
    return lambda call, rule: replace(rule, frozen=rule.frozen - set(letters))


def _linear(*groups):
    return lambda call, rule: with_linear(rule, *groups)


def _without(field, value):
    return lambda call, rule: replace(rule, **{field: value})


def _swapped(call, rule):
    """The composite dim of a merge read the wrong way round."""
    return replace(rule, results=tuple(tuple(names[::-1] for names in dims) for dims in rule.results))


def _emitting(op, text):
    return replace(op, emit=lambda call, rule, local, args, kwargs: text)


MUTANTS = {
    "the bias is added on every rank": (mutant(OPS["linear"], _without("addends", frozenset())), 0),
    "a frozen bias is added on every rank": (mutant(OPS["linear"], _without("addends", frozenset())), 2),
    "with a bias, linear in x alone": (mutant(OPS["linear"], _linear({0})), 0),
    "softmax over a split dim": (mutant(OPS["softmax"], _unfrozen("v2")), 0),
    "layer norm over a split dim": (mutant(OPS["layer_norm"], _unfrozen("n0")), 0),
    "group norm over split channels": (mutant(OPS["group_norm"], _unfrozen("c")), 1),
    "relu of a partial sum": (mutant(OPS["relu"], _linear({0})), 0),
    "a product of two partial sums": (mutant(OPS["mul"], _linear({0, 1})), 0),
    "a sum linear in one term": (mutant(OPS["add"], _linear({0})), 0),
    "a number added to a partial sum": (mutant(OPS["add"], _linear({0})), 2),
    "an unread mask made partial": (mutant(OPS["where"], _linear({1}, {2})), 0),
    "a largest element of a split dim": (mutant(OPS["amax"], _unfrozen("d1")), 0),
    "a running sum along a split dim": (mutant(OPS["cumsum"], _unfrozen("d1")), 0),
    "a mean of local means": (_emitting(OPS["mean"], "x0.mean(1)"), 0),
    "a loss of local means": (_emitting(OPS["cross_entropy"], "F.cross_entropy(x0, x1)"), 0),
    "a squared error of local means": (_emitting(OPS["mse_loss"], "F.mse_loss(x0, x1)"), 0),
    "classes split": (mutant(OPS["cross_entropy"], _unfrozen("v")), 0),
    "a causal mask counted from a rank's own rows": (mutant(OPS["attention"], _unfrozen("t")), 0),
    "keys split": (mutant(OPS["attention"], _unfrozen("s")), 1),
    "a convolution without its neighbours": (_emitting(OPS["conv"], "F.conv2d(x0, x1, x2, padding=1)"), 0),
    "local statistics": (_emitting(OPS["batch_norm"], "F.batch_norm(x0, x3, x4, x1, x2, True)"), 0),
    "a merge read backwards": (mutant(OPS["reshape"], _swapped), 0),
    "pieces of a plainly split dim": (mutant(OPS["split"], _unfrozen("q")), 0),
    "rows cut across a split dim": (mutant(OPS["slice"], _unfrozen("x1", "y1")), 0),
    "a table of split rows": (mutant(OPS["embedding"], _unfrozen("v")), 0),
    "whole sizes in a reshape": (_emitting(OPS["reshape"], "x0.reshape(8, 6)"), 0),
    "squeezing whatever has extent 1": (_emitting(OPS["squeeze"], "x0.squeeze()"), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_wrong_record_is_rejected(name):
    op, place = MUTANTS[name]
    with pytest.raises((AssertionError, RuntimeError, IndexError, ValueError)) as caught:
        prove(op, op.samples[place])
    told = "".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "['replicate']" not in told, "it fails undivided: this record shows nothing about its splits"


@pytest.mark.parametrize("wrong", [Replicate(), Partial()])
def test_the_wrong_meaning_of_whole_is_rejected(monkeypatch, wrong):
    """A weight that every rank uses on its own rows is Copied: as Replicate its gradient would be one rank's addend."""
    sound = rule_proof.choices

    def choices(*given):
        return [
            replace(one, operands=tuple(wrong if o == Copied() else o for o in one.operands)) for one in sound(*given)
        ]

    monkeypatch.setattr(rule_proof, "choices", choices)
    with pytest.raises(AssertionError):
        prove(OPS["linear"], OPS["linear"].samples[0])
