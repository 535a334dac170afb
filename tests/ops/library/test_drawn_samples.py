"""Every record proved on calls that nobody wrote down: see `drawn_samples`.

Two per record by default, always the same ones (`rule_proof`).
"""

import itertools

import pytest
from drawn_samples import NEVER_CALLED, UNCHECKED, accepted, drawn, with_extent
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st
from rule_proof import EXAMPLES

from autopar.ops.record.op import Sample, T
from autopar.ops.registry import registry
from autopar.proof import GRIDS, prove

OPS = {op.name: op for op in registry().values()}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # torch on parts without rows


def _tensors(sample: Sample) -> bool:
    return any(isinstance(one, T) for arg in sample.args for one in (arg if isinstance(arg, tuple) else (arg,)))


@pytest.mark.parametrize("name", sorted(name for name, op in OPS.items() if op.samples))
@settings(
    max_examples=EXAMPLES or 2,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_record_on_drawn_samples(name, data):
    op = OPS[name]
    found = data.draw(drawn(op))
    assume(found is not None)
    results = len(found.whole.results)
    only = data.draw(st.integers(0, results)) if results > 1 else results  # the result that is read, or all
    every = 1 if EXAMPLES else 8
    note(f"{found.sample}, result {only} of {results}")
    grid = data.draw(st.sampled_from(GRIDS[::-1]))
    some = (data.draw(st.integers(0, every - 1)), every)
    try:
        prove(op, found.sample, lambda i: only in (i, results), (grid,), some)
    except (AssertionError, ValueError) as error:
        if not any(text in str(error) for text in NEVER_CALLED):
            raise


def test_every_record_has_other_samples_than_its_own():
    without = [
        name for name, op in OPS.items() if any(_tensors(sample) for sample in op.samples) and not has_others(op)
    ]
    assert not without


def has_others(op):
    """Whether some sample with another extent of a letter is taken, if the record has letters at all."""
    known = [one for one in (accepted(op, sample) for sample in op.samples) if one is not None]
    found = (
        accepted(op, sample)
        for one in known
        for letter, n in itertools.product(one.rule.letters, (5, 3, 2))
        for sample in itertools.islice(with_extent(one, letter, n), 1 if op.name in UNCHECKED else None)
    )
    return any(one is not None and one.rule.letters for one in found) or not any(one.rule.letters for one in known)
