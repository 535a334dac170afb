"""What the tests of records share: how much to try, and wrong records for the proof (`autopar.proof`) to reject.

By default little is drawn, always the same. AUTOPAR_PROOF_EXAMPLES=100 draws that many calls per record, others each time,
and tries everything on all samples.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace

from autopar.ops.record.op import Op, Sample, T
from autopar.ops.record.rule import Call, Rule
from autopar.proof.reference import whole_of

EXAMPLES = int(os.environ.get("AUTOPAR_PROOF_EXAMPLES", "0"))


def mutant(op: Op, change: Callable[[Call, Rule], Rule]) -> Op:
    """The record with another rule."""
    return replace(op, rule=lambda call: change(call, op.rule(call)))


def samples_of(op: Op) -> tuple[Sample, ...]:
    """The record's samples; where they leave a target out, the first of them that it takes too."""
    known = {sample.target or op.targets[0] for sample in op.samples}
    others = (target for target in op.targets if target not in known)
    return (*op.samples, *(sample for target in others if (sample := _taken(op, target)) is not None))


def _taken(op: Op, target: str) -> Sample | None:
    for sample in itertools.chain.from_iterable(map(_with_numbers, op.samples)):
        try:
            whole_of(op, replace(sample, target=target))
        except (RuntimeError, TypeError, IndexError, ValueError):
            continue
        return replace(sample, target=target)
    return None


def _with_numbers(sample: Sample) -> Iterator[Sample]:
    """The sample, then with a number in place of one of its tensors or dropped arguments at its end."""
    yield sample
    for number, at in itertools.product((2.5, 2), range(len(sample.args))):
        if isinstance(sample.args[at], T):
            yield replace(sample, args=(*sample.args[:at], number, *sample.args[at + 1 :]))
    for count in range(1, len(sample.args)):
        yield replace(sample, args=sample.args[:count], kwargs=())
