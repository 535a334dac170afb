"""A plan beside a profile of its program: what was predicted and what every rank has measured, in seconds of one step.

    totals      compute, communication, gradient sums, update, the step
    calls       operator calls; of repeated blocks all rounds together
    primitives  conversions, and what calls exchange inside
    others      expressions of the program that the plan does not know, because they were edited, and calls that are not there

A rank's communication includes waiting for ranks that come later. Of one call, the rank that came last has waited least: what
the others spent beyond its time counts as waiting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low

from autopar.costmodel.timeline import Event
from autopar.ir.plan import ConversionPlan, NodePlan, Place, Plan
from autopar.ir.profile import Piece, Profile, RankProfile

FORWARD, BACKWARD = ("forward", "communication"), ("backward", "adjoint")
MOVING = ("communication", "adjoint")
_Key = tuple[int | None, int, str]  # expression, round, kind
SUMS = "gradient sums"  # the lane of sums under way


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """Something predicted and measured; seconds in a step, the measured ones by rank. `sent` are bytes, predicted and measured."""

    name: str
    times: int
    predicted: float
    measured: tuple[float, ...]
    module: str = ""
    source: str = ""
    code: str = ""
    split: str = ""
    forward: tuple[float, float] = (0.0, 0.0)  # predicted, and measured on the slowest rank
    sent: tuple[float, float] = (0.0, 0.0)

    @property
    def slowest(self) -> float:
        """The seconds of the rank that takes longest."""
        return max(self.measured, default=0.0)

    @property
    def least(self) -> float:
        """The seconds of the rank that takes least."""
        return min(self.measured, default=0.0)

    @property
    def shown(self) -> float:
        """What is compared with the prediction."""
        return self.slowest

    @property
    def off(self) -> float:
        """How far the prediction is off."""
        return abs(self.shown - self.predicted)


@dataclass(frozen=True, slots=True)
class Exchange(ProfileRow):
    """A row of communication over `axis`, the first where it is over several; compared where no rank is waited for."""

    axis: str = ""

    @property
    def shown(self) -> float:
        """The seconds of the rank that came last."""
        return self.least


@dataclass(frozen=True, slots=True)
class Comparison:
    """All of it; rows with the worst offenders first."""

    totals: tuple[ProfileRow, ...]
    calls: tuple[ProfileRow, ...]
    primitives: tuple[ProfileRow, ...]
    others: tuple[ProfileRow, ...]
    missing: tuple[str, ...]  # calls of the plan that the program lacks


def compare(plan: Plan, profile: Profile, splits: Mapping[str, str]) -> Comparison:
    """The comparison; `splits` says how each call is split."""
    builder = _ComparisonBuilder(plan, profile, splits, tuple(_seconds(rank.pieces) for rank in profile.ranks))
    rows = [row for i, place in enumerate(plan.places) for row in builder.rows(i, place)]
    calls = [row for row in rows if not isinstance(row, Exchange)]
    moved = [row for row in rows if isinstance(row, Exchange)]
    timed = {expression.place for expression in profile.expressions}
    there = {call for i, place in enumerate(plan.places) if i in timed or not place.text for call in place.calls}
    missing = tuple(node.name for node in plan.nodes if node.name not in there)
    return Comparison(
        tuple(_totals(plan, profile, builder)), _worst(calls), _worst(moved), _worst(list(builder.others())), missing
    )


def call_seconds(plan: Plan, profile: Profile) -> Iterator[tuple[str, tuple[NodePlan, ...], tuple[float, ...]]]:
    """The computation of every call that was measured: ``forward`` or ``backward``, its rounds, and the seconds of every rank."""
    builder = _ComparisonBuilder(plan, profile, {}, tuple(_seconds(rank.pieces) for rank in profile.ranks))
    for number, place in enumerate(plan.places):
        at = [i for i, expression in enumerate(profile.expressions) if expression.place == number]
        if at and place.conversion is None and place.calls:
            nodes = tuple(node for node in plan.nodes if node.name in place.calls)
            for kind in ("forward", "backward"):
                yield kind, nodes, builder.of(at, (kind,))


def _worst(rows: Sequence[ProfileRow]) -> tuple[ProfileRow, ...]:
    return tuple(sorted(rows, key=lambda row: (-row.off, row.name)))


def _seconds(pieces: Sequence[Piece]) -> dict[_Key, float]:
    return {(piece.expression, piece.round, piece.kind): piece.seconds for piece in pieces}


@dataclass(frozen=True, slots=True)
class _ComparisonBuilder:
    plan: Plan
    profile: Profile
    splits: Mapping[str, str]
    seconds: tuple[Mapping[_Key, float], ...]

    def rows(self, number: int, place: Place) -> Iterator[ProfileRow]:
        """The rows of one place of the plan: none where the program lacks it."""
        at = [i for i, expression in enumerate(self.profile.expressions) if expression.place == number]
        if not at:
            return
        if place.conversion is not None:
            yield self.conversion(self.plan.conversions[place.conversion], at)
        elif place.calls:
            nodes = [node for node in self.plan.nodes if node.name in place.calls]
            yield self.call(nodes, at)
            if any(node.inner for node in nodes) or any(self.of(at, MOVING)):
                yield self.inside(nodes, at)

    def of(self, at: Sequence[int], kinds: Sequence[str]) -> tuple[float, ...]:
        """By rank, the seconds of some kinds at some expressions, over all rounds."""
        return tuple(sum(s for (i, _, kind), s in rank.items() if i in at and kind in kinds) for rank in self.seconds)

    def sent(self, at: Sequence[int]) -> float:
        """The bytes that the busiest rank sends at some expressions."""
        return max(sum(piece.sent for piece in rank.pieces if piece.expression in at) for rank in self.profile.ranks)

    def call(self, nodes: Sequence[NodePlan], at: Sequence[int]) -> ProfileRow:
        """The computation of a call in all its rounds."""
        node = nodes[0]
        forward = sum(node.seconds_forward for node in nodes)
        return ProfileRow(
            name=node.name,
            times=len(nodes),
            predicted=forward + sum(node.seconds_backward for node in nodes),
            measured=self.of(at, ("forward", "backward")),
            module=node.module,
            source=node.source,
            code=node.code,
            split=self.splits.get(node.name, ""),
            forward=(forward, max(self.of(at, ("forward",)))),
        )

    def inside(self, nodes: Sequence[NodePlan], at: Sequence[int]) -> ProfileRow:
        """What a call exchanges inside."""
        node, inner = nodes[0], [exchange for node in nodes for exchange in node.inner]
        names = dict.fromkeys(f"{exchange.primitive} over {exchange.axis}" for exchange in inner)
        forward = sum(exchange.seconds_forward for exchange in inner)
        return Exchange(
            name=f"{', '.join(names) or 'exchange'} in {node.name}",
            times=len(nodes),
            predicted=forward + sum(exchange.seconds_adjoint for exchange in inner),
            measured=self.of(at, MOVING),
            module=node.module,
            source=node.source,
            code=node.code,
            split=self.splits.get(node.name, ""),
            forward=(forward, min(self.of(at, ("communication",)))),
            sent=(sum(exchange.bytes_forward + exchange.bytes_adjoint for exchange in inner), self.sent(at)),
            axis=inner[0].axis if inner else "",
        )

    def conversion(self, conversion: ConversionPlan, at: Sequence[int]) -> ProfileRow:
        """A conversion, local copies included, in all its rounds."""
        whom = conversion.consumers[0] if conversion.consumers else conversion.module or "the loss"
        return Exchange(
            name=f"{conversion.primitive} of {conversion.value} over {conversion.axis}",
            times=conversion.times,
            predicted=conversion.times * conversion.seconds,
            measured=self.of(at, (*FORWARD, *BACKWARD)),
            module=conversion.module,
            code=f"for {whom}",
            forward=(conversion.times * conversion.seconds_forward, min(self.of(at, FORWARD))),
            sent=(conversion.times * (conversion.bytes_forward + conversion.bytes_adjoint), self.sent(at)),
            axis=conversion.axis,
        )

    def others(self) -> Iterator[ProfileRow]:
        """Expressions that are no place of the plan."""
        for i, expression in enumerate(self.profile.expressions):
            if expression.place is None:
                measured = self.of([i], (*FORWARD, *BACKWARD))
                where = f"{expression.function}, line {expression.line}"
                yield ProfileRow(where, 1, 0.0, measured, code=expression.text)


def _totals(plan: Plan, profile: Profile, builder: _ComparisonBuilder) -> Iterator[ProfileRow]:
    predicted = plan.predicted
    converted = {
        i
        for i, expression in enumerate(profile.expressions)
        if expression.place is not None and plan.places[expression.place].conversion is not None
    }

    def total(name: str, said: float, chosen: Mapping[str, bool | None]) -> ProfileRow:
        """Kinds of pieces: of conversions (True), of others (False), or of both (None)."""
        measured = tuple(
            sum(s for (i, _, kind), s in seconds.items() if kind in chosen and chosen[kind] in (None, i in converted))
            for seconds in builder.seconds
        )
        return ProfileRow(name, 1, said, measured)

    yield total("compute, forward", sum(node.seconds_forward for node in plan.nodes), {"forward": False})
    yield total("compute, backward", sum(node.seconds_backward for node in plan.nodes), {"backward": False})
    moving = {"communication": None, "adjoint": None, "forward": True, "backward": True}
    yield total("communication", predicted.communication, moving)
    yield ProfileRow("of it, waiting for other ranks", 1, 0.0, waiting(builder.seconds))
    yield total("gradient sums, exposed", predicted.gradients, {"gradients": None, "wait": None})
    yield total("update", predicted.update, {"update": None})
    yield total("inputs", 0.0, {"inputs": None})
    yield total("everything else", 0.0, {"other": None})
    yield ProfileRow(
        "whole step", 1, predicted.seconds, tuple(median_low(rank.plain or rank.steps) for rank in profile.ranks)
    )


def waiting(seconds: Sequence[Mapping[_Key, float]]) -> tuple[float, ...]:
    """By rank, what its communication takes longer than on the rank that came last."""
    keys = [key for key in set().union(*seconds) if key[2] in MOVING]
    least = {key: min(rank.get(key, 0.0) for rank in seconds) for key in keys}
    return tuple(sum(rank.get(key, 0.0) - least[key] for key in keys) for rank in seconds)


def overhead(profile: Profile) -> tuple[float, float]:
    """Median seconds of a profiled step, and of one that was not, both of the slowest rank; (x, 0) where there is none."""
    profiled = max(median_low(rank.steps) for rank in profile.ranks)
    return profiled, max((median_low(rank.plain) for rank in profile.ranks if rank.plain), default=0.0)


def events(plan: Plan, profile: Profile, rank: RankProfile) -> tuple[Event, ...]:
    """What a rank did in the step of median length."""
    spans: list[Event] = []
    named = [_named(plan, profile, piece) for piece in rank.pieces]
    for number, start, end in rank.spans:
        piece, (name, detail) = rank.pieces[number], named[number]
        moving = piece.kind in MOVING
        kind, lane = ("communication", "communication") if moving else (piece.kind, "compute")
        last = spans[-1] if spans else None
        if last and (last.name, last.kind, last.end) == (name, kind, start):
            spans[-1] = Event(name, kind, lane, last.start, end, detail)
        else:
            spans.append(Event(name, kind, lane, start, end, detail))
    free = 0.0
    for bucket, start, end in sorted(rank.flights, key=lambda flight: flight[1:]):
        if end > max(free, start):  # sums are carried out one after another
            spans.append(Event(f"bucket {bucket}", "gradients", SUMS, max(free, start), end))
            free = end
    return tuple(spans)


def _named(plan: Plan, profile: Profile, piece: Piece) -> tuple[str, str]:
    """Name and detail of a piece."""
    if piece.expression is None:
        return {"wait": "wait for gradient sums"}.get(piece.kind, piece.kind), ""
    expression = profile.expressions[piece.expression]
    place = None if expression.place is None else plan.places[expression.place]
    if place is not None and place.conversion is not None:
        conversion = plan.conversions[place.conversion]
        return f"{conversion.primitive} of {conversion.value}", conversion.module
    if place is not None and place.calls:
        name = place.calls[min(piece.round, len(place.calls) - 1)]
        node = next(node for node in plan.nodes if node.name == name)
        return name, "  ".join(part for part in (node.module, node.source) if part)
    return expression.text[:60], f"{expression.function}, line {expression.line}"
