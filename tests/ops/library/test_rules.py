"""Every record of the library, proved by execution; and wrong records, which the proof must reject."""

from dataclasses import replace
from functools import partial

import pytest
from rule_proof import EXAMPLES, mutant, samples_of

from autopar.errors import AutoparError
from autopar.ir.layout import Copied, Partial, Replicate
from autopar.ops.record.fallback import FALLBACK
from autopar.ops.record.op import Sample, T
from autopar.ops.record.rule import Window, with_linear
from autopar.ops.registry import registry
from autopar.proof import GRIDS, prove, record_proof
from autopar.proof.reference import whole_of

OPS = {op.name: op for op in registry().values()}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # torch on parts without rows

NOT_CALLED = {  # targets that cannot be compared: no defined values, or an argument that is a device
    "aten.empty.memory_format", "aten.empty_like.default", "aten.new_empty.default", "aten.to.device",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(OPS))
def test_record(name):
    """Every sample, and where there are several results with one of them read as well, then on two ranks.

    The first sample is tried under all cuts, but not of pointwise operators, which are many and alike: none of them asks
    its neighbours, and so two ranks show what three would. More pairs of choices: `test_pairs_of_choices`.
    """
    op = OPS[name]
    grids = tuple(spec for spec in GRIDS if EXAMPLES or op.work != "pointwise" or spec != "data=3")
    samples = samples_of(op)
    missing = set(op.targets) - {sample.target or op.targets[0] for sample in samples}
    assert missing <= NOT_CALLED, "a target that no sample calls"
    for sample in samples:
        few = (sample is not samples[0] or op.work == "pointwise") and not EXAMPLES
        tried = [(grids, True)] if few else [(grids[:-1], False), (grids[-1:], not EXAMPLES)]
        results = len(whole_of(op, sample).results)
        reads = [range(results)] + [{only} for only in {0, results - 1} if results > 1]
        proved = [
            sum(
                prove(op, sample, one.__contains__, specs, few=fewer)
                for specs, fewer in (tried if one == reads[0] else [(("data=2",), True)])
            )
            for one in reads
            if takes(op, sample, one)
        ]
        assert proved
        assert min(proved) > 0


@pytest.mark.zoo
def test_pairs_of_choices():
    """Four times as many pairs as `test_record` tries, of every record that has so many."""
    firsts = [(op, sample) for op in OPS.values() if op.work != "pointwise" for sample in samples_of(op)[:1]]
    assert sum(prove(op, sample, grids=GRIDS[-1:]) for op, sample in firsts) > 10 * len(firsts)


def by_place(op, sample):
    """Whether a row of some letter of the sample's call has to know its place (`ops.place.by_place`)."""
    try:
        rule = op.rule(whole_of(op, sample).call)
    except ValueError:
        return False
    return any(window == Window(1) and letter in rule.letters for letter, window in rule.windows.items())


def test_rows_that_know_their_place_are_cut_plainly_or_reported():
    """Each of these records has a sample that fails where such a letter is cut in blocks, or with several rows at a time."""

    def anyhow(call, rule):
        return replace(rule, windows={letter: one for letter, one in rule.windows.items() if one != Window(1)})

    def is_reported(op, samples):
        try:
            for sample in samples:
                prove(mutant(op, anyhow), sample, grids=("data=2",))
        except (AssertionError, AutoparError, IndexError, RuntimeError):
            return True
        return False

    placed = {name: list(filter(partial(by_place, op), samples_of(op))) for name, op in OPS.items()}
    assert sum(map(bool, placed.values())) >= 20
    assert not [name for name, samples in placed.items() if samples and not is_reported(OPS[name], samples)]


def test_a_lender_that_makes_its_borrower_whole_is_reported():
    """Splitting a tensor that only lends its dtype changes nothing, and so the result is whole: but x is Copied then."""

    def lending(call, rule):
        lent = tuple((f"x{i}",) for i in range(len(call.operands[1].shape)))
        extents = {f"x{i}": n for i, n in enumerate(call.operands[1].shape)}
        whole = {letter: frozenset({0}) for letter in extents}
        return replace(rule, operands=(rule.operands[0], lent), extents={**rule.extents, **extents}, whole=whole)

    sample = Sample((T((4, 6)), T((3, 2), "float32")), target="aten.type_as.default")
    with pytest.raises(AssertionError, match="'x0', 'x1'"):
        prove(mutant(OPS["to"], lending), sample)
    integers = replace(sample, args=(T((4, 6), "index 9"), sample.args[1]))
    assert prove(mutant(OPS["to"], lending), integers), "without a gradient there is nothing to mix"


def takes(op, sample, read):
    """Whether the record has a rule for the call where these results are read; otherwise it runs whole."""
    try:
        op.rule(whole_of(op, sample, read.__contains__).call)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    "sample",
    [
        Sample((T((4, 6)),), target="aten.diff.default"),
        Sample((T((4, 4)), 1), target="aten.diagonal.default"),
        Sample((T((4, 6)), T((3, 6))), target="aten.cdist.default"),
        Sample((T((4, 6)), (T((4, 6), "bool"),), T(())), target="aten.index_put.default"),
        Sample((T((4, 6)), 0.0, True), target="aten.feature_dropout.default"),
        Sample((T((6,)), T((6,)), T((6,), "constant")), target="aten.margin_ranking_loss.default"),
        Sample((T((4, 6)), T((4, 6), "constant")), target="aten.hinge_embedding_loss.default"),
        Sample((T((4, 6)), T((4, 6)), T((4,), "constant")), target="aten.cosine_embedding_loss.default"),
        Sample((T((4, 6)), T((4, 6)), T((4, 6))), target="aten.triplet_margin_loss.default"),
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


def _swapped_everywhere(call, rule):
    """The same on both sides: an order that only the call itself knows."""
    both = replace(rule, operands=tuple(tuple(names[::-1] for names in dims) for dims in rule.operands))
    return _swapped(call, both)


def _emitting(op, text):
    return replace(op, emit=lambda ctx: text)


def _saying(op, old, new):
    """Another text where it is about a split."""
    return replace(op, emit=lambda ctx: op.emit(ctx).replace(old, new))


def _place(name, target="", **kwargs):
    """The record's first sample of this target with these keywords."""
    found = (i for i, one in enumerate(OPS[name].samples) if one.target == target and dict(one.kwargs) == kwargs)
    return next(found)


MUTANTS = {
    "the bias is added on every rank": (mutant(OPS["linear"], _without("addends", frozenset())), 0),
    "a frozen bias is added on every rank": (mutant(OPS["linear"], _without("addends", frozenset())), 2),
    "with a bias, linear in x alone": (mutant(OPS["linear"], _linear({0})), 0),
    "softmax over a split dim": (_emitting(OPS["softmax"], "F.softmax(x0, -1)"), 0),
    "layer norm over a split dim": (_emitting(OPS["layer_norm"], "F.layer_norm(x0, x0.shape[-1:], x1, x2)"), 0),
    "group norm over split channels": (_emitting(OPS["group_norm"], "F.group_norm(x0, 3, eps=1e-3)"), 1),
    "relu of a partial sum": (mutant(OPS["relu"], _linear({0})), 0),
    "a product of two partial sums": (mutant(OPS["mul"], _linear({0, 1})), 0),
    "a sum linear in one term": (mutant(OPS["add"], _linear({0})), 0),
    "a number added to a partial sum": (mutant(OPS["add"], _linear({0})), 2),
    "an unread mask made partial": (mutant(OPS["where"], _linear({1}, {2})), 0),
    "a largest element of a split dim": (_emitting(OPS["amax"], "x0.amax(1)"), 0),
    "a running sum along a split dim": (_emitting(OPS["cumsum"], "x0.cumsum(1)"), 0),
    "a mean of local means": (_emitting(OPS["mean"], "x0.mean(1)"), 0),
    "a loss of local means": (_emitting(OPS["cross_entropy"], "F.cross_entropy(x0, x1)"), 0),
    "a squared error of local means": (_emitting(OPS["mse_loss"], "F.mse_loss(x0, x1)"), 0),
    "classes split": (_emitting(OPS["cross_entropy"], "cross_entropy(x0, x1)"), 0),
    "a causal mask counted from a rank's own rows": (
        _emitting(OPS["attention"], "F.scaled_dot_product_attention(x0, x1, x2, is_causal=True)"), 0,
    ),
    "a softmax over a rank's own keys": (
        _emitting(OPS["attention"], "F.scaled_dot_product_attention(x0, x1, x2, scale=0.3)"), 1,
    ),
    "features of keys split": (mutant(OPS["attention"], _unfrozen("e")), 1),
    "dropout counted from a rank's own rows": (_emitting(OPS["dropout"], "dropout(x0, 0.4)"), 0),
    "a convolution without its neighbours": (_emitting(OPS["conv"], "F.conv2d(x0, x1, x2, padding=1)"), 0),
    "local statistics": (_emitting(OPS["batch_norm"], "F.batch_norm(x0, x3, x4, x1, x2, True)"), 0),
    "a merge read backwards": (mutant(OPS["reshape"], _swapped), 0),
    "pieces of a plainly split dim": (mutant(OPS["split"], _unfrozen("q")), 0),
    "rows cut across a split dim": (_emitting(OPS["slice"], "x0[:, 1:5]"), 0),
    "a table of split rows": (_emitting(OPS["embedding"], "F.embedding(x1, x0)"), 0),
    "whole sizes in a reshape": (_emitting(OPS["reshape"], "x0.reshape(8, 6)"), 0),
    "squeezing whatever has extent 1": (_emitting(OPS["squeeze"], "x0.squeeze()"), 0),
    "a sum said to be whole": (mutant(OPS["linear"], _without("whole", {"k": frozenset({0})})), 1),
    "channels for nobody": (mutant(OPS["conv"], _without("filled", frozenset())), 0),
    "a plain kernel's rows for a dilated one": (
        _saying(OPS["conv"], "dilation=(2, 1), over", "dilation=(1, 1), over"), 1,
    ),
    "groups counted whole": (_saying(OPS["conv"], "DATA.part(4)", "4"), 3),
    "channels of a group dealt across groups": (mutant(OPS["conv"], _swapped_everywhere), 4),
    "heads of a group dealt across groups": (
        mutant(OPS["attention"], _swapped_everywhere), _place("attention", enable_gqa=True),
    ),
    "rows rolled within a rank": (_saying(OPS["flip"], "roll(x0, (2,), (1,), {1: (DATA, 6)})", "x0.roll((2,), (1,))"), 1),
    "rows interpolated without neighbours": (
        _emitting(OPS["interpolate"], 'F.interpolate(x0, scale_factor=2.0, mode="linear", align_corners=False)'), 3,
    ),
    "experts counted from a rank's first": (_emitting(OPS["experts"], 'experts(x0, x1, x2, x3, x4, "silu")'), 0),
    "columns of a one-hot from the first": (_saying(OPS["one_hot"], "DATA.start(5)", "0"), 0),
    "what is added to, added on every rank": (
        mutant(OPS["scatter"], _without("addends", frozenset())), _place("scatter", "aten.scatter_add.default"),
    ),
    "a transform over a split dim": (mutant(OPS["fourier"], _without("frozen", frozenset())), 0),
    "the largest of a rank's own": (mutant(OPS["topk"], _without("frozen", frozenset())), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_wrong_record_is_rejected(name):
    op, place = MUTANTS[name]
    with pytest.raises((AssertionError, RuntimeError, IndexError, ValueError)) as caught:
        prove(op, op.samples[place])
    told = "".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "['replicate'] cuts" not in told, "it fails undivided: this record shows nothing about its splits"


@pytest.mark.parametrize("wrong", [Replicate(), Partial()])
def test_the_wrong_meaning_of_whole_is_rejected(monkeypatch, wrong):
    """A weight that every rank uses on its own rows is Copied: as Replicate its gradient would be one rank's addend."""
    sound = record_proof.choices

    def choices(*given):
        return [
            replace(one, operands=tuple(wrong if o == Copied() else o for o in one.operands)) for one in sound(*given)
        ]

    monkeypatch.setattr(record_proof, "choices", choices)
    with pytest.raises(AssertionError):
        prove(OPS["linear"], OPS["linear"].samples[0])
