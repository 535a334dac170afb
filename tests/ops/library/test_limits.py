"""Every record where numbers are special: see `autopar.proof.limits`.

By default a few fillings of every record, others from record to record; all of them with AUTOPAR_PROOF_EXAMPLES set.
"""

import pytest
from rule_proof import EXAMPLES

from autopar.ops.registry import registry
from autopar.proof.limits import fills, prove_limits

OPS = {op.name: op for op in registry().values()}
# Forms that the runtime computes in its own way, and in which something is divided, or compared, or masked.
FORMS = (
    "amax", "amin", "max", "min", "std", "var", "norm", "logsumexp", "softmax", "log_softmax", "cross_entropy", "nll_loss",
    "batch_norm", "layer_norm", "group_norm", "rms_norm", "attention", "adaptive_avg_pool", "cumsum", "scatter",
)  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # torch on parts without rows


def _tried(name, most=None):
    """Every kind of filling of every operand, each on one of the samples, in turn; or some of them, spread evenly."""
    op = OPS[name]
    known = {}
    for i, sample in enumerate(op.samples):
        for words, _ in fills(op, sample):
            known.setdefault(words.split(" along")[0], []).append((i, words))
    kinds = list(known.values())[:: 1 if most is None or EXAMPLES else max(1, len(known) // most)]
    chosen = {
        pair for place, pairs in enumerate(kinds) for pair in (pairs if EXAMPLES else [pairs[place % len(pairs)]])
    }
    return sum(
        prove_limits(op, sample, grids=("data=2",), chosen=lambda words, i=i: (i, words) in chosen)
        for i, sample in enumerate(op.samples)
    )


@pytest.mark.parametrize("name", FORMS)
def test_distributed_form_at_its_limits(name):
    assert _tried(name) > 0


def test_other_records_at_their_limits():
    """Without those that treat every number by itself: they are called as they are."""
    for name in sorted(name for name, op in OPS.items() if op.samples and name not in FORMS):
        if EXAMPLES or OPS[name].work != "pointwise":
            _tried(name, 1)
