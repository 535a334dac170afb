"""The settings of a paper's figures, from ``gholami2018.toml`` beside this file to frozen records.

The file holds the network, the link, the digitised bars and how these differ from the equations; `figures` turns
the records into bars. Each entry is read as the type that its record declares. Everything that is unknown,
missing or makes no sense is refused at once, in one message.
"""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec

from autopar.errors import ConfigError, nearest, refusal
from autopar.ir.machine import Link
from autopar.ir.units import parse_bytes
from benchmarks.gholami2018.equations import Count, Layer

Positive = Annotated[float, msgspec.Meta(gt=0)]
Pixels = Annotated[float, msgspec.Meta(ge=0)]
_OWN = Path(__file__).with_name("gholami2018.toml")
_FIX = "compare with benchmarks/gholami2018/gholami2018.toml"


@dataclass(frozen=True, slots=True)
class Wire:
    """The link: `alpha` seconds per message, `beta` bytes per second, as a number or as ``"6GiB"``."""

    alpha: Pixels
    beta: str | float


@dataclass(frozen=True, slots=True)
class Figure4:
    """Figure 4: `seconds` of one epoch on one rank at each of the `batch` sizes."""

    batch: tuple[Count, ...]
    seconds: tuple[Positive, ...]


@dataclass(frozen=True, slots=True)
class Deviations:
    """How the published bars differ from the published equations.

    halo_times      how often every halo is counted
    redistributed   layers at which a redistribution by equation 6 is added
    input_width     by layer, the width of the input of which the halo is taken
    """

    halo_times: Count
    redistributed: tuple[str, ...]
    input_width: dict[str, Count]


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: what it shows, what is written on it, and its bars in pixels.

    `image_parts` is into how many parts the convolutions cut an image, None for as many as the grid has rows. `scale` is
    (seconds, pixels), `bars` are (compute, batch, model or domain), `compute` is that of the whole panel, in pixels.
    """

    figure: str
    batch: Count
    ranks: Count
    best: str
    scale: tuple[Positive, Positive]
    compute: Positive
    bars: tuple[tuple[Pixels, Pixels, Pixels], ...]
    image_parts: Count | None = None
    overlap: bool = False
    text: Literal["", "model", "two thirds"] = ""
    speedup: Positive | None = None
    communication_speedup: Positive | None = None

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of every bar: rows double from bar to bar."""
        first = self.image_parts or 1
        return tuple((first << place, self.ranks // (first << place)) for place in range(len(self.bars)))

    @property
    def pixel(self) -> float:
        """Seconds per pixel."""
        return self.scale[0] / self.scale[1]


@dataclass(frozen=True, slots=True)
class Paper:
    """The whole file. `images` are those of one epoch."""

    images: Positive
    word_bytes: Count
    link: Wire
    figure4: Figure4
    drawn: Deviations
    layers: tuple[Layer, ...]
    panels: tuple[Panel, ...]

    @property
    def wire(self) -> Link:
        """The link with its rate as a number."""
        return Link(self.link.alpha, float(parse_bytes(self.link.beta)))

    @property
    def convolutions(self) -> tuple[Layer, ...]:
        """Layers whose results are images."""
        return tuple(layer for layer in self.layers if layer.output[1:] != (1, 1))

    @property
    def connected(self) -> tuple[Layer, ...]:
        """The fully connected layers."""
        return tuple(layer for layer in self.layers if layer.output[1:] == (1, 1))


def load(path: str | Path | None = None) -> Paper:
    """Read a file of settings; without a path the paper's own.

    Raises ConfigError where the file cannot be read, is not TOML, or has unknown, missing or senseless entries.
    """
    file = _OWN if path is None else Path(path)
    where = f"paper settings {(file.name if path is None else str(path))!r}"
    try:
        table = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        rule = "the settings are a readable text file"
        raise ConfigError(refusal(where, "cannot be read", rule, [str(error)], _FIX)) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(refusal(where, f"not TOML: {error}", "the settings are a TOML file", fix=_FIX)) from error
    offenders: list[str] = []
    paper = _record(Paper, table, "", offenders)
    if not offenders:
        offenders = _nonsense(paper)
    if offenders:
        rule = "the settings have every entry, no other, and values that make sense"
        raise ConfigError(refusal(where, f"{len(offenders)} entries are wrong", rule, offenders, _FIX))
    assert isinstance(paper, Paper)
    return paper


def _record(kind: Any, table: object, prefix: str, offenders: list[str]) -> Any:  # noqa: ANN401 (a record of `kind`)
    """A record of `kind` with the values of a table, or None: what is wrong is appended to `offenders`."""
    if not isinstance(table, dict):
        offenders.append(f"{prefix.rstrip('.')}: {table!r} is not a table")
        return None
    known = {field.name: field for field in fields(kind)}
    offenders += [f"{prefix}{key}: unknown{nearest(key, known)}" for key in table if key not in known]
    needed = [name for name, field in known.items() if field.default is MISSING]
    offenders += [f"{prefix}{name}: missing" for name in needed if name not in table]
    hints = get_type_hints(kind, include_extras=True)
    values = {name: _value(hints[name], table[name], prefix + name, offenders) for name in known if name in table}
    return kind(**values) if set(needed) <= set(values) else None


def _value(kind: Any, value: object, where: str, offenders: list[str]) -> Any:  # noqa: ANN401 (a value of `kind`)
    """A value as its type demands: a record, a tuple of records, or what msgspec converts."""
    if is_dataclass(kind):
        return _record(kind, value, f"{where}.", offenders)
    item = next(iter(get_args(kind)), None)
    if is_dataclass(item):
        if isinstance(value, list):
            return tuple(_record(item, entry, f"{where}[{place}].", offenders) for place, entry in enumerate(value))
        offenders.append(f"{where}: {value!r} is not a list of tables")
        return ()
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        offenders.append(f"{where}: {error}")
        return None


def _nonsense(paper: Paper) -> list[str]:
    """What is wrong with entries that have the right types."""
    offenders = []
    try:
        rate = float(parse_bytes(paper.link.beta))
    except ConfigError:
        rate = 0.0
    if rate <= 0:
        offenders.append(
            f'link.beta: {paper.link.beta!r} is not a positive number of bytes per second, as 1e9 or "6GiB"'
        )
    names = [entry.name for entry in paper.layers]
    offenders += [f"layers: {name!r} stands twice" for name in sorted({one for one in names if names.count(one) > 1})]
    for key, given in (("redistributed", paper.drawn.redistributed), ("input_width", paper.drawn.input_width)):
        offenders += [f"drawn.{key}: no layer {name!r}{nearest(name, names)}" for name in given if name not in names]
    if len(paper.figure4.batch) != len(paper.figure4.seconds):
        offenders.append("figure4: as many batch sizes as seconds are needed")
    for place, entry in enumerate(paper.layers):
        if entry.input[0] % entry.groups or entry.output[0] % entry.groups:
            offenders.append(f"layers[{place}].groups: {entry.groups} does not divide the channels of {entry.name}")
    for place, panel in enumerate(paper.panels):
        offenders += [f"panels[{place}].{text}" for text in _nonsense_of_panel(panel)]
    figures = [panel.figure for panel in paper.panels]
    return offenders + [f"panels: {one!r} stands twice" for one in sorted({f for f in figures if figures.count(f) > 1})]


def _nonsense_of_panel(panel: Panel) -> list[str]:
    if not panel.bars:
        return ["bars: a panel has at least one bar"]
    offenders = [
        f"ranks: {panel.ranks} are not {rows} rows times whole columns"
        for rows, _ in panel.grids
        if panel.ranks % rows or panel.ranks < rows
    ]
    grids = [f"{rows}x{columns}" for rows, columns in panel.grids]
    if not offenders and panel.best not in grids:
        offenders.append(f"best: {panel.best!r} is none of its grids {', '.join(grids)}")
    return offenders
