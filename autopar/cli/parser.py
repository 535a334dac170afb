"""An argument parser that refuses in the way of all of autopar's errors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from autopar.cli import launch_options
from autopar.errors import nearest, refusal

_FORM = "a command line has the form of the usage"


class Parser(argparse.ArgumentParser):
    """An argument parser whose refusals are complete, and suggest the nearest option, value or command."""

    _words: Sequence[str] = ()

    def parse_args(self, args: Sequence[str] | None = None, namespace: None = None) -> argparse.Namespace:  # type: ignore[override]
        """Parse; words that nobody takes end with the nearest known options."""
        known: argparse.Namespace
        behind: list[str] = []
        words = list(sys.argv[1:] if args is None else args)
        if words and _subparser(self, words[0]).get_default("mpiexec") is not None:
            words, behind = launch_options.split(words)
        known, rest = self.parse_known_args(words, namespace)
        if rest:
            _subparser(self, getattr(known, "command", "")).unknown(rest)
        if behind:
            known.mpiexec = behind
        return known

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # noqa: ANN401 (argparse has overloads)
        """Parse, and keep the words in case something is wrong with them."""
        self._words = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(self._words, namespace)

    def unknown(self, words: Sequence[str]) -> NoReturn:
        """Refuse words that are no options; a plain word behind such an option is taken for its value."""
        options = [word for word in words if word.startswith("-")]
        if not options:
            self.refuse(f"{' '.join(words)!r} is too much", _FORM, [self.usage_line()])
        offenders = [f"{word}{nearest(word.split('=')[0], self._option_string_actions)}" for word in options]
        self.refuse("unknown option", f"`{self.prog}` takes the options that its help lists", offenders)

    def error(self, message: str) -> NoReturn:
        """Refuse the command line; a misspelled option comes first, since it is why another one is missing."""
        before = self._words[: self._words.index("--")] if "--" in self._words else self._words
        options = [word for word in before if word.startswith("--")]
        unknown = [word for word in options if word.split("=")[0] not in self._option_string_actions]
        if unknown:
            self.unknown(unknown)
        missing = message.removeprefix("the following arguments are required: ")
        if missing != message:
            self.refuse(f"without {missing}", _FORM, [self.usage_line()])
        self.refuse(message.removeprefix("argument "), "options have the values that the help says")

    def usage_line(self) -> str:
        """The usage in one line."""
        return " ".join(self.format_usage().split())

    def refuse(self, fault: str, rule: str, offenders: Iterable[str] = ()) -> NoReturn:
        """End with status 2 and a message in five parts."""
        text = refusal("command line", fault, rule, offenders, f"see `{self.prog} --help`")
        self.exit(2, f"autopar: {text}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:  # noqa: ANN401
        if action.choices is not None and value not in action.choices:
            what = action.option_strings[-1] if action.option_strings else "command"
            fault = f"{what} {value!r} is unknown{nearest(str(value), action.choices)}"
            self.refuse(
                fault,
                f"a {what} is one of those" if what == "command" else f"{what} takes one of those",
                action.choices,
            )


def _subparser(parser: Parser, command: str) -> Parser:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and command in action.choices:
            chosen: Parser = action.choices[command]
            return chosen
    return parser
