"""When boundaries move: the settings, and how a command line or a script says them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from autopar.errors import ConfigError, nearest, refusal

REMEMBERED = 64  # steps, since the last move
AUTO, OFF = "auto", "off"
SYNTAX = "auto, off, or settings as threshold=0.05,horizon=500"


@dataclass(frozen=True, slots=True)
class BalanceSettings:
    """When to move: `window` steps at least must speak for it, of those from `rest` steps after a move on.

    `threshold` is the least saving, as a share of a step, `agreement` the share of the steps that must save it, `doubt` how
    likely it may be that so many do by chance. What a move saves in `horizon` steps has to be more than it costs.
    """

    window: int = 4
    rest: int = 1
    horizon: int = 200
    threshold: float = 0.03
    agreement: float = 0.8
    doubt: float = 2e-5

    def __post_init__(self) -> None:
        counts = 1 <= self.window <= REMEMBERED and self.rest >= 0 and self.horizon >= 1
        if not (counts and self.threshold >= 0 and 0 <= self.agreement <= 1 and 0 < self.doubt <= 1):
            rule = (
                f"window is 1 to {REMEMBERED}, horizon at least 1, rest and threshold at least 0, agreement 0 to 1, "
                "doubt above 0 and at most 1"
            )
            raise ConfigError(refusal("balancing", f"cannot work with {self}", rule))


def parse_balance(text: str) -> BalanceSettings | None:
    """The settings that a text says; None where boundaries are to stay. Raises ConfigError.

    >>> parse_balance("off"), parse_balance("auto") == BalanceSettings(), parse_balance("window=8,threshold=0.1").window
    (None, True, 8)
    """
    if text in (AUTO, OFF):
        return BalanceSettings() if text == AUTO else None
    kinds = {item.name: int if item.type == "int" else float for item in dataclasses.fields(BalanceSettings)}
    values: dict[str, Any] = {}
    wrong = []
    for part in text.split(","):
        name, _, number = (word.strip() for word in part.partition("="))
        try:
            values[name] = kinds[name](number)
        except KeyError:
            wrong.append(f"{name!r} is no setting{nearest(name, (*kinds, AUTO, OFF))}")
        except ValueError:
            wrong.append(
                f"{name}={number!r} is no number" if kinds[name] is float else f"{name}={number!r} is no whole number"
            )
    if wrong:
        rule = f"it is {SYNTAX}; settings are {', '.join(kinds)}"
        raise ConfigError(refusal(f"balance {text!r}", "not understood", rule, wrong))
    return dataclasses.replace(BalanceSettings(), **values)


def settings_of(balance: str | BalanceSettings) -> BalanceSettings | None:
    """The settings of a text, or as they are."""
    return parse_balance(balance) if isinstance(balance, str) else balance
