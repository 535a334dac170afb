"""Every record on calls with other arguments than its samples have (`autopar.proof.variations`): what is printed is the call.

All of them undivided, from the first sample of every target; some of them split as well. AUTOPAR_PROOF_EXAMPLES tries
those of all samples, and all of them split.
"""

import itertools
from dataclasses import replace

import pytest
from rule_proof import EXAMPLES, mutant

from autopar.ops.library.distances import along
from autopar.ops.record.fallback import FALLBACK
from autopar.ops.registry import registry
from autopar.proof.gradients import unasked
from autopar.proof.record_proof import prove_text, prove_whole, rule_or_none
from autopar.proof.variations import variations

OPS = {op.name: op for op in registry().values()}
MOST = 10**9 if EXAMPLES else 1
FEW, FEWER = (
    (1, 1) if EXAMPLES else (10, 100)
)  # of so many one is split: of those with other flags or words, of all others

pytestmark = pytest.mark.filterwarnings("ignore")  # what torch says of odd calls


def failures(op):
    """What is wrong with the variations of a record, and how many there are."""
    told, count, known = [], 0, {}
    for one in variations(op, MOST):
        count += 1
        said = words(one.sample)
        other = said != known.setdefault(one.sample.target, said)
        try:
            prove_text(op, one.whole)
            if EXAMPLES and not op.random and not one.whole.call.node.target.startswith("autopar."):
                prove_text(FALLBACK, one.whole)
            if rule_or_none(op, one.whole) is not None and next(PLACES[other]) % (FEW if other else FEWER) == 0:
                prove_whole(op, one.whole, ("data=2",), few=True)
        except Exception as error:
            told.append(f"{one.sample}: {error}")
    return told, count


def words(sample):
    """The flags and words of a call: they change what its letters are."""
    flat = [one for arg in (*sample.args, *sample.kwargs) for one in (arg if isinstance(arg, tuple) else (arg,))]
    return [one for one in flat if isinstance(one, bool | str)]


PLACES = {False: itertools.count(), True: itertools.count()}


def test_every_variation():
    found = {name: failures(op) for name, op in sorted(OPS.items())}
    wrong = {name: told for name, (told, _) in found.items() if told}
    assert not wrong
    assert sum(count for _, count in found.values()) > 4000


def test_every_operand_has_a_gradient_in_some_sample():
    missing = [one for op in OPS.values() for one in unasked(op)]
    assert not missing


def test_a_target_without_a_gradient_is_named():
    samples = tuple(sample for sample in OPS["to"].samples if "type_as" not in sample.target)
    assert unasked(replace(OPS["to"], samples=(*samples, OPS["to"].samples[-3]))) == ["aten.type_as.default: self"]


def _saying(name, old, new):
    op = OPS[name]
    return replace(op, emit=lambda ctx: op.emit(ctx).replace(old, new))


def _by_the_first(call, rule):
    """The dim of cosine_similarity counted by the first operand's dims."""
    dim = call.arg(2, "dim", 1)
    return along(call, dim % len(call.operands[0].shape))


MUTANTS = {
    "the other triangle": _saying("eigh", ', UPLO="U"', ""),
    "a factor of the other side": _saying("cholesky", ", upper=True", ""),
    "a dim that is always the last": _saying("vecdot", ", dim=", ", dim=-1 if 1 else "),
    "slopes that are not said": _saying("elu", "torch.ops.aten.elu.default(x0, 1,", "F.elu(x0, 1.0 or ("),
    "dims that go": _saying("argmax", "keepdim=True", "keepdim=False"),
    "a dtype that is not said": _saying("cumsum", ", dtype=torch.float32", ""),
    "a mean for a sum": _saying("mse_loss", 'reduction="sum"', 'reduction="mean"'),
    "a rounding that is not said": _saying("div", ', rounding_mode="floor"', ""),
    "smallest for largest": _saying("topk", "largest=False", "largest=True"),
}


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_lost_argument_is_noticed(name):
    assert failures(MUTANTS[name])[0]


def test_a_dim_counted_by_the_first_operand_is_noticed():
    op = mutant(OPS["cosine_similarity"], _by_the_first)
    told = []
    for one in variations(op, 1):
        try:
            prove_whole(op, one.whole, ("data=2",), few=True)
        except Exception as error:
            told.append(str(error))
    assert told
