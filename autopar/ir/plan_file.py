"""Plans on disk: written as JSON, read and checked, so that what uses a plan need not be careful."""

from __future__ import annotations

from pathlib import Path

import msgspec

from autopar.errors import PlanError, nearest, refusal
from autopar.ir.plan import VERSION, Plan
from autopar.ir.plan_check import offenders
from autopar.version import __version__

_AGAIN = "compile the model again with `autopar compile`"


def to_json(plan: Plan) -> str:
    """The plan as indented JSON text, deterministic to the byte; what is said of unequal ranks stands in it where ranks are."""
    entries = msgspec.to_builtins(plan)
    nodes = ((node, "ranks") for node in entries["nodes"])
    for table, key in ((entries, "cuts"), (entries, "ranks"), (entries["machine"], "ranks"), *nodes):
        if not table[key]:
            del table[key]
    return msgspec.json.format(msgspec.json.encode(entries), indent=1).decode() + "\n"


def from_json(text: str, where: str) -> Plan:
    """Read a plan. Raises PlanError where the text is damaged, or another schema version or release wrote it."""
    try:
        head = msgspec.json.decode(text, type=dict[str, object])
        _check_version(head, where)
        plan = msgspec.json.decode(text, type=Plan)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PlanError(
            refusal(where, f"damaged: {error}", "a plan is what `autopar compile` wrote", fix=_AGAIN)
        ) from error
    check(plan, where)
    return plan


def _check_version(head: dict[str, object], where: str) -> None:
    version, release = head.get("version"), head.get("autopar")
    if version != VERSION:
        fault = f"schema version {version!r}" if "version" in head else "damaged: it has no schema version"
        raise PlanError(refusal(where, fault, f"this release reads version {VERSION}", fix=_AGAIN))
    if release != __version__:
        fault = f"compiled by autopar {release}, and this is {__version__}"
        rule = "a plan is read by the release that made it"
        raise PlanError(refusal(where, fault, rule, fix=f"{_AGAIN}, or install autopar {release}"))


def check(plan: Plan, where: str) -> None:
    """Raise PlanError, with the first offenders, unless the plan makes sense: layouts, axes, names and numbers."""
    wrong = list(offenders(plan))
    if wrong:
        more = [f"and {len(wrong) - 10} more"] if len(wrong) > 10 else []
        rule = "a plan is what `autopar compile` wrote; programs may be edited, plans may not"
        raise PlanError(refusal(where, "damaged: it contradicts itself", rule, wrong[:10] + more, _AGAIN))


def load_plan(path: str | Path) -> Plan:
    """Read ``plan.json``, or the one in a folder that `autopar compile` wrote. Raises PlanError."""
    file = Path(path) / "plan.json" if Path(path).is_dir() else Path(path)
    rule = "a compiled folder holds plan.json and program.py"
    if not file.exists():
        others = [other.parent.name for other in file.parent.glob("*/plan.json")] if file.parent.is_dir() else []
        fault = (
            "the folder has no plan.json"
            if Path(path).is_dir()
            else f"there is no such folder{nearest(file.name, others)}"
        )
        raise PlanError(
            refusal(str(path), fault, rule, fix="name a folder that `autopar compile MODEL -o FOLDER` wrote")
        )
    if file.suffix == ".py":
        fix = f"name the folder of the program, or compile the model: autopar compile {file} --grid 2 -o build"
        raise PlanError(refusal(str(path), "it is a Python file", rule, fix=fix))
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(refusal(str(file), f"cannot be read: {error}", rule, fix=_AGAIN)) from error
    return from_json(text, str(file))
