"""Proof of an operator's record by execution: run a sample whole, run it split on simulated ranks, recombine, compare.

    prove(op, sample)     everything that the record's rule allows for one sample, forward and backward, to 1e-12

For every choice that the rule allows (on one axis of two or three ranks, and for pairs of axes) the operands are laid
out as the choice says, a Partial one as random addends; every rank evaluates the emitted expression, and the results
are put together by their layouts. Then backward: every result gets a cotangent laid out by the dual of its layout, and
the gradients of the operands are put together by the duals of theirs. Cuts are even, uneven, and leave ranks empty.

    prove_limits(op, sample)     its splits where numbers are zero, tied, infinite, or none that count

`whole` runs the sample undivided, `jobs` lists what is tried, `parts` cuts tensors and puts them together, `run` tries.
"""

from autopar.proof.limits import prove_limits
from autopar.proof.record_proof import GRIDS, prove, prove_operator

__all__ = ["GRIDS", "prove", "prove_limits", "prove_operator"]
