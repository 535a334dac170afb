"""The line that a program has for a sample of a record, by the letters that it is split over."""

from autopar.ops.record.op import Sample
from autopar.ops.record.rule import choices, split_choice
from autopar.ops.registry import registry
from autopar.proof.record_proof import emitted
from autopar.proof.reference import whole_of


def printed(target, sample, letters):
    """The call of `target` on two axes, DATA and MODEL, each split over its letter; "" computes the whole."""
    op = registry()[target]
    whole = whole_of(op, Sample(sample.args, sample.kwargs, target))
    rule = op.rule(whole.call)
    none = choices(rule, whole.call, {})[0]
    strategy = tuple(split_choice(rule, whole.call, letter) if letter else none for letter in letters)
    assert None not in strategy, rule.letters
    return emitted(op, whole, rule, strategy, ("DATA", "MODEL"))
