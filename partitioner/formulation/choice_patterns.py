"""Words for what is done on one axis: of a call a letter or a mode, of a tensor a layout.

n, b0, h                       a letter of the operator: it is split
replicate, copied, linear      the modes of a call that splits nothing; replicate and copied are layouts, too
whole                          replicate or copied
shard, shard 1, shard 1 as 3x_x64     a tensor in parts: along any dim, along dim 1, exactly so
"""

from __future__ import annotations

from autopar.ir.layout import Layout, Shard
from autopar.ops.record.rule import Choice

MODES = ("replicate", "copied", "linear", "whole")
_WHOLE = ("replicate", "copied")


def choice_matches(choice: Choice, word: str) -> bool:
    """Whether a call's choice on an axis is what the word says."""
    return word in (choice.letter, choice.mode) or (word == "whole" and choice.mode in _WHOLE)


def layout_matches(layout: Layout, word: str) -> bool:
    """Whether a layout is what the word says.

    >>> lies(Shard(1, 3, 64), "shard 1"), lies(Shard(1), "shard"), lies(Shard(1), "whole")
    (True, True, False)
    """
    return within(str(layout), word) if word != "whole" else not isinstance(layout, Shard)


def within(narrow: str, wide: str) -> bool:
    """Whether all that the first word says, the second says as well."""
    return narrow == wide or narrow.startswith(wide + " ") or (wide == "whole" and narrow in _WHOLE)
