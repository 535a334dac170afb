"""Which record a target has: the user's own, which `autopar.register_operator` takes, or the library's.

Records register themselves (`autopar.ops.record.op`) and know nothing of this file.
"""

from __future__ import annotations

from autopar.errors import ConfigError, refusal
from autopar.ops.record.op import LIBRARY, Op
from autopar.ops.record.overloads import overload_of

_OWN: dict[str, Op] = {}  # those of the user


def register_operator(op: Op) -> Op:
    """Make a record of your own the record of its targets, in place of one that they may have; returns it.

    Call it in the model's file, or anywhere before `autopar.compile` and `autopar.parallelize`. A later record of the
    same targets counts, so that a file may be loaded twice. Raises ConfigError for a target that torch does not have.
    """
    unknown = [target for target in op.targets if not _exists(target)]
    if unknown or not op.targets:
        what = "torch has no such operator" if unknown else "it has no targets"
        rule = "a record names overloads that torch.ops has, as aten.linear.default"
        fix = "register the operator with torch.library first, and write namespace.name.overload"
        raise ConfigError(refusal(f"operator {op.name}", what, rule, unknown, fix))
    _OWN.update(dict.fromkeys(op.targets, op))
    return op


def _exists(target: str) -> bool:
    """Whether torch.ops has this overload."""
    try:
        return target.count(".") == 2 and overload_of(target) is not None
    except AttributeError:
        return False


def record_of(target: str) -> Op | None:
    """The record of a target: the user's own, the library's, or None."""
    import autopar.ops.library.all  # noqa: F401  (fills the library; loaded when first needed)

    return _OWN.get(target) or LIBRARY.get(target)


def registry() -> dict[str, Op]:
    """Every record of the library by ATen target."""
    import autopar.ops.library.all  # noqa: F401

    return dict(LIBRARY)
