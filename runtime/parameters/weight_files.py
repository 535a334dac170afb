"""Weights as others store them: one safetensors file, or a folder of several with an index, read slice by slice.

    model.safetensors                                        one file
    folder/model.safetensors                                 what `save_pretrained` writes
    folder/model.safetensors.index.json, model-0000*-of-*    the same in several files: {"weight_map": {name: file}}
    folder/x.safetensors                                     any other name, where the folder holds one such file

`opened` gives every tensor by its name, unread; `matched` says which tensor of the model each one is, or raises with
everything that does not fit; `fill` reads this rank's parts into tensors that are there.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from autopar.errors import CheckpointError, nearest, refusal
from autopar.ir.layout import Layouts
from autopar.runtime.grid.grid import Axis
from autopar.runtime.parameters.precision import precise
from autopar.runtime.parameters.sources import Readable, Stored, from_file
from autopar.runtime.program.plan_reader import TensorSpec, dtype_name

Names = Mapping[str, str | None] | Callable[[str], str | None]
ONE, INDEX, SUFFIX = "model.safetensors", "model.safetensors.index.json", ".safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """What was read: how many tensors, the model's that no file has, the file's that the model has not, and conversions.

    `converted` counts tensors by (dtype in the file, dtype in the model); `passed` has a line for each newer checkpoint that is not
    whole.
    """

    path: Path
    tensors: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    converted: Mapping[tuple[str, str], int] = field(default_factory=dict)
    passed: tuple[str, ...] = ()

    @property
    def lines(self) -> tuple[str, ...]:
        """Lines worth telling, the first one what was read."""
        lines = [f"{self.tensors} tensors from {self.path}", *(f"passed over {line}" for line in self.passed)]
        lines += [f"{count} of them were {old}, and are {new}" for (old, new), count in sorted(self.converted.items())]
        if self.missing:
            lines.append(f"{len(self.missing)} keep their initial values: {_some(self.missing)}")
        if self.unexpected:
            lines.append(f"{len(self.unexpected)} are not the model's, and were left: {_some(self.unexpected)}")
        return tuple(lines)


@dataclass(frozen=True, slots=True)
class MatchedWeights:
    """The stored tensors of each tensor of the model, more than one where tied names are stored twice; what is left over."""

    found: Mapping[TensorSpec, Sequence[tuple[str, Readable]]]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def opened(path: Path) -> dict[str, Stored]:
    """Every tensor at a path, unread. Raises CheckpointError where there are none, or files lack what an index says."""
    tensors: dict[str, Stored] = {}
    for file, names in _files(path).items():
        here = dict(from_file(file))
        if lacking := [name for name in names or () if name not in here]:
            rule = f"{INDEX} says which file holds which tensor"
            fix = "copy the whole folder again: it may be incomplete, or its files from two saves"
            given = f"{file.name} lacks {len(lacking)} tensors of the index"
            raise CheckpointError(refusal(str(path), given, rule, lacking[:10], fix))
        tensors |= {name: one for name, one in here.items() if names is None or name in names}
    return tensors


def renamed(names: Names | None) -> Callable[[str], str | None]:
    """The model's name for a name in a file, None for a tensor to leave out.

    A mapping has whole names and beginnings that end in a dot, or are empty; the longest one counts.

    >>> change = renamed({"": "base.", "head.": "", "old": None})
    >>> change("wte.weight"), change("head.bias"), change("old")
    ('base.wte.weight', 'bias', None)
    """
    if names is None:
        return lambda name: name
    if callable(names):
        return names
    beginnings = sorted((one for one in names if not one or one.endswith(".")), key=len, reverse=True)

    def change(name: str) -> str | None:
        if name in names:
            return names[name]
        start = next((one for one in beginnings if name.startswith(one)), None)
        new = name if start is None else names[start]
        return new if start is None or new is None else new + name[len(start) :]

    return change


def matched(
    where: str,
    tensors: Mapping[str, Readable],
    specs: Iterable[TensorSpec],
    names: Names | None = None,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> MatchedWeights:
    """Which tensor of the model each stored one is. Patterns are of the shell's kind, ``"*"`` all.

    Raises CheckpointError with every name that is missing, unexpected or given twice, and every wrong shape.
    """
    specs = list(specs)
    owner = {name: item for item in specs for name in (item.name, *item.aliases)}
    change, sources = renamed(names), dict[str, str]()
    found: dict[TensorSpec, list[tuple[str, Readable]]] = {}
    problems: list[str] = []
    unexpected: list[str] = []
    for name, tensor in tensors.items():
        own = change(name)
        if own is None:
            continue
        called = name if own == name else f"{name} (for {own})"
        item = owner.get(own)
        if item is None:
            unexpected.append(name)
            if not _matches(own, allow_unexpected) and not _matches(name, allow_unexpected):
                problems.append(f"{called} is not a parameter of the model{nearest(own, owner)}")
        elif own in sources:
            problems.append(f"{called} has the name of {sources[own]}, which is {own} too")
        elif tuple(tensor.shape) != item.shape:
            problems.append(f"{called} has shape {tuple(tensor.shape)}, the model's is {item.shape}")
            found.setdefault(item, [])
        else:
            found.setdefault(item, []).append((name, tensor))
            sources[own] = name
    missing = tuple(item.name for item in specs if item not in found)
    problems += [f"{name} is missing" for name in missing if not _matches(name, allow_missing)]
    if problems:
        rule = "every parameter and buffer of the model is in the file, under one of its names, and nothing else"
        fix = (
            "names={'old.': 'new.'} (--rename old.=new.) where names differ, allow_missing=['head.*'] (--allow-missing) for what "
            "is to keep its initial values, allow_unexpected=['*'] (--allow-unexpected) for what is to be left"
        )
        raise CheckpointError(refusal(where, f"{len(problems)} tensors do not fit the model", rule, problems, fix))
    return MatchedWeights(found, missing, tuple(unexpected))


def conversions(where: str, matches: MatchedWeights, dtype: torch.dtype | None) -> dict[tuple[str, str], int]:
    """How many tensors are converted, by (dtype in the file, dtype in the model), where `dtype` replaces floating point.

    Raises CheckpointError where numbers would become of another kind.
    """
    problems: list[str] = []
    converted: Counter[tuple[str, str]] = Counter()
    for item, stored in matches.found.items():
        for name, tensor in stored[:1]:
            old, new = tensor.dtype, precise(item.dtype, dtype)
            if _kind(old) != _kind(new):
                problems.append(f"{name} is {dtype_name(old)}, and {item.name} is {dtype_name(new)}")
            elif old != new:
                converted[dtype_name(old), dtype_name(new)] += 1
    if problems:
        rule = "values are converted between precisions, not between kinds of numbers"
        raise CheckpointError(refusal(where, f"{len(problems)} tensors do not fit the model", rule, problems))
    return dict(converted)


def check_tied(where: str, matches: MatchedWeights, held: Mapping[TensorSpec, Layouts], axes: Sequence[Axis]) -> None:
    """Raise CheckpointError where a tensor is stored under several of its names, with other values. Only such are read."""
    problems = []
    for item, layouts in held.items():
        stored = matches.found.get(item, ())
        parts = [(name, tensor.part(layouts, axes)) for name, tensor in stored] if len(stored) > 1 else []
        problems += [f"{name} and {parts[0][0]}" for name, part in parts[1:] if not torch.equal(part, parts[0][1])]
    if problems:
        rule = "names that are tied in the model have one value"
        fix = "leave one of them out: names={'that.name': None}; or untie them in the model"
        given = f"{len(problems)} pairs of tied tensors with different values"
        raise CheckpointError(refusal(where, given, rule, problems, fix))


def digest(tensors: Mapping[str, Readable]) -> str:
    """A hash of names, shapes and dtypes: what ranks compare that have read the same files."""
    lines = [f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in sorted(tensors.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _kind(dtype: torch.dtype) -> str:
    return "complex" if dtype.is_complex else "floating" if dtype.is_floating_point else "whole"


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _files(path: Path) -> dict[Path, frozenset[str] | None]:
    """The files at a path, with the tensors that an index says they hold. Raises CheckpointError."""
    if path.is_file() and path.name.endswith(".index.json"):
        return _indexed(path)
    if not path.is_dir():
        return {path: None}
    if (path / INDEX).is_file():
        return _indexed(path / INDEX)
    files = sorted(path.glob(f"*{SUFFIX}"))
    chosen = [file for file in files if file.name == ONE] or files
    if len(chosen) == 1:
        return {chosen[0]: None}
    rule = f"a folder of weights holds {INDEX}, {ONE}, or one file of safetensors"
    pickles = [file.name for pattern in _PICKLES for file in sorted(path.glob(pattern))]
    fix = "give the file itself" if files else "model.save_pretrained(folder) writes one"
    given = f"it holds {len(files)} of them and no index" if files else "it holds none of these"
    if pickles and not files:
        fix = "pickles run code when they are read: load them where you trust them, and model.save_pretrained(folder)"
    raise CheckpointError(refusal(str(path), given, rule, [file.name for file in files] or pickles, fix))


def _indexed(index: Path) -> dict[Path, frozenset[str] | None]:
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names: dict[str, set[str]] = {}
        for name, file in entries.items():
            names.setdefault(Path(file).name, set()).add(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        rule = 'an index is JSON: {"weight_map": {name of a tensor: name of its file}}'
        raise CheckpointError(refusal(str(index), f"cannot be read: {type(error).__name__}: {error}", rule)) from error
    return {index.parent / file: frozenset(owned) for file, owned in sorted(names.items())}
