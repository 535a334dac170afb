"""Functions of the user's that a program calls: classes with a forward and a backward, found by name when first called.

    Straight = function("scorer", "Straight")        # class Straight of scorer.py, the model's file, or of a module
    y = Straight.apply(x)

A program is read before its model file is, so nothing is looked for until a call.
"""

from __future__ import annotations

import importlib
import re
import sys
from types import ModuleType
from typing import Any

from autopar.errors import ConfigError, nearest, refusal


def function(module: str, name: str) -> Named:
    """The `torch.autograd.Function` of this name in a module, or in the model file of this stem."""
    return Named(module, name)


class Named:
    """A function that is looked for when it is called."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name

    def apply(self, *args: Any) -> Any:  # noqa: ANN401 (whatever the function takes and returns)
        """The function itself, applied."""
        value: Any = _module(self.module, self.name)
        for part in self.name.split("."):
            if not hasattr(value, part):
                problem = f"there is no {self.name} in it{nearest(part, vars(value))}"
                raise _missing(self.module, problem)
            value = getattr(value, part)
        return value.apply(*args)


def _module(name: str, attribute: str) -> ModuleType:
    """The model file of this stem that was read last, or the module."""
    file_name = re.compile(rf"_model_{re.escape(name)}_[0-9a-f]{{12}}")
    files = [module for key, module in sys.modules.items() if file_name.fullmatch(key)]
    if files:
        return files[-1]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise _missing(name, f"{attribute} is wanted of it, and it cannot be imported: {error}") from error


def _missing(module: str, problem: str) -> ConfigError:
    rule = "a program calls the functions of its model, so the file that defines them is read before it runs"
    fix = "run it where the model was compiled, import that file first, or compile again"
    return ConfigError(refusal(f"the module {module}", problem, rule, fix=fix))
