"""A machine profile as TOML that people read: `autopar.ir.machine.load` turns the text into the same record again."""

from __future__ import annotations

from collections.abc import Sequence

from autopar.ir.machine import Fit, Machine, table
from autopar.ir.units import bytes_exact, rate_text


def text(machine: Machine, notes: Sequence[str], marks: dict[str, str]) -> str:
    """The file. `notes` are lines of comment at its top, `marks` comments behind the headings of tables."""
    content = table(machine)
    fits, classes, operators = content.pop("fits", {}), content.pop("ranks", []), content.pop("operators", {})
    lines = [f"# {note}" for note in notes]
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    lines += [_entry(key, value, "") for key, value in content.items() if key not in tables]
    for key, entries in tables.items():
        lines += ["", _heading(key, marks)]
        lines += [
            _entry(name, value, "beta" if key in ("intra", "inter", "update") else key)
            for name, value in entries.items()
        ]
    for place, moves in fits.items():
        lines += ["", _heading(f"fits.{place}", marks)]
        lines += [f"{name} = {value}" for name, value in moves.items() if not isinstance(value, dict)]
        lines += [_fit(fit) for fit in machine.fits if fit.place == place]
    if operators:
        lines += ["", _heading("operators", marks), *(_own(f'"{name}"', value) for name, value in operators.items())]
    for one in classes:
        lines += ["", "[[ranks]]", *(_own(name, value) for name, value in one.items())]
    return "\n".join(lines) + "\n"


def _heading(key: str, marks: dict[str, str]) -> str:
    return f"[{key}]" + (f"  # {marks[key]}" if key in marks else "")


def _entry(name: str, value: object, kind: str) -> str:
    if isinstance(value, str):
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'{name} = "{quoted}"'
    shown = number(value) if isinstance(value, float) else str(value)
    rates = isinstance(value, float) and (name == "memory_bandwidth" or (kind == "beta" and name != "alpha"))
    return f"{name} = {shown}" + (f"  # {rate_text(float(value))}" if rates and isinstance(value, float) else "")


def _own(name: str, value: object) -> str:
    """An entry of a class of ranks; a link is a table on one line."""
    if isinstance(value, dict):
        return f"{name} = {{{', '.join(f'{key} = {number(each)}' for key, each in value.items())}}}"
    return _entry(name, value, "")


def number(value: float) -> str:
    """The shortest text that is this number: ``6.42e9``."""
    mantissa, _, power = f"{value!r}".partition("e")
    if not power and (value >= 1e6 or 0 < value < 1e-3):
        digits = f"{value:.15e}"
        mantissa, _, power = digits.partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
        if float(f"{mantissa}e{int(power)}") != value:
            return repr(value)
    return f"{mantissa}e{int(power)}" if power else mantissa


def _fit(fit: Fit) -> str:
    bounds = [bytes_exact(until) if bytes_exact(until).endswith("iB") else number(until) for until in fit.until]
    quoted = ", ".join(f'"{bound}"' if bound.endswith("iB") else bound for bound in bounds)
    until = f"until = [{quoted}], " if bounds else ""
    rates = ", ".join(number(beta) for beta in fit.beta)
    return f"{fit.move} = {{alpha = {number(fit.alpha)}, {until}beta = [{rates}]}}"
