"""No record leaves out a letter that could be split, but for those listed here.

Two samples per target are searched by default, all in a long run (`rule_proof`).
"""

from dataclasses import replace

import pytest
from drawn_samples import UNCHECKED
from missing_letters import missing, missing_of
from rule_proof import EXAMPLES, mutant

from autopar.ops.registry import registry

OPS = {op.name: op for op in registry().values()}
MOST = 10**6 if EXAMPLES else 2

# Record and letter (its dim in every operand), with the reason why it is not offered.
LEFT_OUT = {
    ("conv", (4, 4)): "only where the kernel is the whole image: a letter of the image that is one of the kernel too",
    ("slice_scatter", (1, 1)): "only where the slice is everything, and capture takes such a call away",
    **{("to", dims): "what only lends its dtype, and capture takes it away" for dims in ((-1, 0), (0, 0), (1, 1))},
}

pytestmark = pytest.mark.filterwarnings("ignore")  # what torch says of made-up operands


def test_no_letter_is_missing():
    tried = [op for op in OPS.values() if not op.random]
    found = missing_of([op for op in tried if op.name not in UNCHECKED], MOST)
    found |= missing_of([op for op in tried if op.name in UNCHECKED], MOST)
    wrong = [
        f"{one.target}: operand dims {one.dims} may be split, as in {one.call.node.args}"
        for name, letters in found.items()
        for one in letters
        if (name, one.dims) not in LEFT_OUT
    ]
    assert not wrong


@pytest.mark.parametrize("name", sorted({name for name, _ in LEFT_OUT}))
def test_what_is_left_out_is_legal(name):
    assert {dims for of, dims in LEFT_OUT if of == name} <= {one.dims for one in missing(OPS[name], 4)}


@pytest.mark.parametrize(
    ("name", "letter", "dims"),
    [
        ("linear", "b0", (0, -1, -1)),
        ("linear", "n", (-1, 0, 0)),
        ("sum", "d1", (1,)),
        ("attention", "b1", (1, 1, 1)),
        ("conv", "n", (0, -1, -1)),
        ("gather", "i1", (-1, 1)),
    ],
)
def test_a_letter_taken_away_is_reported(name, letter, dims):
    poor = mutant(OPS[name], lambda call, rule: replace(rule, frozen=rule.frozen | {letter}))
    poor = replace(poor, samples=poor.samples[:1])
    assert dims in {one.dims for one in missing(poor, 1)}
