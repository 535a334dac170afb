"""Errors that people read: each says where, what was given, which rule it breaks, every offender, and how to fix it.

``AutoparError`` and its subclasses are for mistakes a user can mend; a broken invariant of our own is an ``assert``.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable

EXAMPLES = {"nibabel": "nibabel", "sklearn": "scikit-learn", "transformers": "transformers"}
"""What the examples import: modules, and the packages that have them."""


class AutoparError(Exception):
    """Anything autopar refuses. The message is complete: it is printed without a traceback by the CLI."""


class CaptureError(AutoparError):
    """The model cannot be turned into a graph: the user's model, or an operator that torch.export cannot trace."""


class ConfigError(AutoparError, ValueError):
    """An option, a grid, a pin, a machine profile or a model file that does not say what it must."""


class PlanError(AutoparError):
    """A plan that is malformed, from another version, or does not fit the graph it is used with."""


class InfeasiblePlan(PlanError):
    """No plan meets the constraints: usually the memory limit. The message says by how much it is missed."""


class ProgramMismatch(AutoparError):
    """The program, the plan, the ranks or the batch are not those that were compiled for."""


class CommError(AutoparError):
    """A failure seen by several ranks at once: every rank raises the same error, which names the ranks it began on."""


class InternalError(AutoparError):
    """A mistake of autopar's own: nothing that the user gave is wrong. The cause is the exception that shows it."""


class CheckpointError(AutoparError):
    """Stored parameters that are missing, incomplete or of another shape."""


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the known name nearest to `given`, or an empty string where none is near."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def fix_for(error: BaseException, fix: str = "mend this line") -> str:
    """How to mend a line of a user's that has raised: an import of a package that is not here wants the package."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return fix
    package = error.name.split(".")[0]
    if package in EXAMPLES:
        return f"pip install {EXAMPLES[package]}; or everything that the examples need: pip install '.[examples]' in a checkout"
    return f"install the package that has {package}, in the environment of {sys.executable}"


def refusal(where: str, given: str, rule: str, offenders: Iterable[str] = (), fix: str = "") -> str:
    """A message in the five parts: where, what was given, which rule it breaks, all offenders, how to fix it."""
    lines = [f"{where}: {given}", f"  rule: {rule}"]
    lines += [f"  - {offender}" for offender in offenders]
    if fix:
        lines.append(f"  fix: {fix}")
    return "\n".join(lines)
