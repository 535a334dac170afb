"""Finding the letters of a form by running it: candidates, a quick trial of each, and a thorough one of what passes.

A candidate is at most one dim per operand, all of one extent, and the literals that are its size. It is first tried
with one deal of rows; where the results change in one dim or in none, it is a letter so far. Then it must hold for all
made-up shapes, uneven deals, deals that are not contiguous, other values, backward, and for many rows. Larger candidates
go first, and a dim belongs to one letter only.
"""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from autopar.ops.discovery.call_shape import (
    Form,
    Place,
    StandIn,
    index_bound,
    lengthened,
    literals,
    made_up,
    ties,
)
from autopar.ops.discovery.trial import (
    Letter,
    Round,
    Rows,
    UndividedRun,
    Unfit,
    agrees,
    part_of,
    rounds,
    run,
    same,
    undivided,
)
from autopar.ops.record import user_functions
from autopar.ops.record.overloads import overload_of

_MOST_CANDIDATES = 3000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found: letters, or the reason why there are none; and with which of the ways of making shapes up."""

    letters: tuple[Letter, ...] = ()
    reason: str = ""
    tied: tuple[Place, ...] = ()
    mode: int = 0
    precision: str = "float64"


def search(form: Form) -> Verdict:
    """The letters of a form, each to be filled until `emptied` shows otherwise. What cannot be tried has none."""
    try:
        refuse(form)
        with _plain_torch():
            return _search(form)
    except Unfit as error:
        return Verdict(reason=str(error))


def holds(form: Form, verdict: Verdict) -> bool:
    """Whether letters that were found before still are: a short trial of each."""
    try:
        refuse(form)
        with _plain_torch():
            bench = _bench(form, frozenset(verdict.tied), verdict.mode, getattr(torch, verdict.precision))
            fit = all(len(letter.operands) == len(form.operands) for letter in verdict.letters)
            return fit and all(_short(bench, letter) for letter in verdict.letters)
    except Exception:
        return False


def emptied(form: Form, verdict: Verdict) -> Verdict:
    """The verdict with the letters of which a rank may hold no row marked so. (Some operators end the process then.)"""
    with _plain_torch():
        bench = _bench(form, frozenset(verdict.tied), verdict.mode, getattr(torch, verdict.precision))
        letters = []
        for letter in verdict.letters:
            deal = (tuple(range(_extent(bench.variants[0], letter))), ())
            trial = partial(agrees, form, bench.wholes[0][1], letter, deal)
            letters.append(replace(letter, filled=not _quietly(trial)))
        return replace(verdict, letters=tuple(letters))


@contextlib.contextmanager
def _plain_torch() -> Iterator[None]:
    """torch as it comes, whatever the caller has switched on; its random numbers stay the caller's."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(warnings.catch_warnings())
        if torch.get_default_device().type != "cpu":  # the mode itself slows every call of torch
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast("cpu", enabled=False))
        warnings.simplefilter("ignore")
        yield


def refuse(form: Form) -> None:
    """Raise Unfit for what cannot be a map of its operands alone."""
    try:
        schema = overload_of(form.target)._schema
    except (AttributeError, RuntimeError) as error:
        raise Unfit("torch has no such operator") from error
    if schema.is_mutable:
        raise Unfit("it changes its operands in place")
    if not form.operands:
        raise Unfit("it has no operands")
    shapes = [*(operand.shape for operand in form.operands), *(shape for shape in form.results if shape is not None)]
    if any(0 in shape for shape in shapes):
        raise Unfit("an operand or result has no elements")
    if not any(shape is not None for shape in form.results):
        raise Unfit("nobody reads its results")


@dataclass(frozen=True, slots=True)
class _Bench:
    """A form with the made-up shapes and values that it runs on, and the whole runs: [shape][value]."""

    form: Form
    variants: tuple[StandIn, ...]
    precision: torch.dtype
    wholes: tuple[tuple[UndividedRun, ...], ...]
    tied: frozenset[Place]
    mode: int


def _search(form: Form) -> Verdict:
    errors: list[str] = []
    bench = next(_benches(form, errors), None)
    if bench is None:
        raise Unfit(f"it does not run on made-up operands{f' ({errors[0]})' if errors else ''}")
    _refuse_unsteady(bench)
    letters: list[Letter] = []
    for letter in _candidates(bench):
        if all(_apart(letter, other) for other in letters):
            proved = _tried(bench, letter)
            if proved is not None and all(_apart(proved, other) for other in letters):
                letters.append(proved)
    precision = str(bench.precision).removeprefix("torch.")
    reason = "" if letters else "no dim of it can be split"
    return Verdict(
        tuple(sorted(letters, key=_order)), reason, tuple(sorted(bench.tied, key=str)), bench.mode, precision
    )


def _order(letter: Letter) -> tuple[tuple[int, int], ...]:
    return tuple((i, dim) for i, dim in enumerate(letter.operands) if dim >= 0)


def _benches(form: Form, errors: list[str]) -> Iterator[_Bench]:
    """The benches that the operator runs on; what it raises on the others is added to `errors`."""
    for precision in (torch.float64, torch.float32):
        for tied in ties(form):
            for mode in range(len(list(made_up(form, tied)))):
                try:
                    yield _bench(form, tied, mode, precision)
                except Exception as error:  # an operator refuses operands in any way it likes
                    lines = str(error).strip().splitlines() or [""]
                    errors.append(f"{type(error).__name__}: {lines[0][:90]}")


def _bench(form: Form, tied: frozenset[Place], mode: int, precision: torch.dtype) -> _Bench:
    """Raises what the operator raises on the first values; others are left out where it does not take them."""
    variants = tuple(made_up(form, tied))[mode]
    wholes = []
    for at, variant in enumerate(variants):
        below = index_bound(form, variant)
        kinds = rounds(form, below) if at == 0 else rounds(form, below)[:2]
        quick = undivided(form, variant, Round("normal"), precision, backward=False)  # integers below 2
        wholes.append((quick, *_taken(form, variant, kinds, precision)))
        if len(wholes[-1]) == 1:
            raise Unfit("it has no finite results")
    return _Bench(form, variants, precision, tuple(wholes), tied, mode)


def _taken(form: Form, variant: StandIn, kinds: Sequence[Round], precision: torch.dtype) -> Iterator[UndividedRun]:
    """The whole runs of the values that the operator takes. The first that gives finite numbers has a backward run."""
    backward = any(operand.flows for operand in form.operands)
    own = user_functions.kept(form.target) is not None
    for at, values in enumerate(kinds):
        try:
            whole = undivided(
                form, variant, values, precision, backward=backward and (at < 2 or (own and values.values != "special"))
            )
        except Exception:
            if at < 2 and backward and _runs(form, variant, values, precision):
                raise
            continue
        numbers = [x for x in whole.results if x is not None and x.is_floating_point() and x.numel()]
        if at > 1 or not numbers or any(bool(x.isfinite().any()) for x in numbers):
            yield whole


def _runs(form: Form, variant: StandIn, values: Round, precision: torch.dtype) -> bool:
    try:
        undivided(form, variant, values, precision, backward=False)
    except Exception:
        return False
    return True


def _refuse_unsteady(bench: _Bench) -> None:
    """Raise Unfit where two runs differ, random numbers are drawn, an operand is changed, or the values do not matter."""
    form, whole = bench.form, bench.wholes[0][1]
    state = torch.get_rng_state()
    operands = tuple(operand.clone() for operand in whole.operands)
    again = run(form, operands, dict(whole.variant.sizes))
    if not torch.equal(state, torch.get_rng_state()):
        raise Unfit("it draws random numbers")
    if not all(same(after, before) for after, before in zip(operands, whole.operands, strict=True)):
        raise Unfit("it changes its operands in place")
    read = [i for i, result in enumerate(whole.results) if result is not None]
    if not all(_equal(again[i], whole.results[i]) for i in read):
        raise Unfit("two runs on the same operands differ")
    for i in read:
        every = [other.results[i] for other in bench.wholes[0]]
        if all(_equal(result, every[0]) for result in every):
            raise Unfit("its results do not depend on the values of its operands")


def _equal(left: torch.Tensor | None, right: torch.Tensor | None) -> bool:
    return left is not None and right is not None and same(left, right)


def _candidates(bench: _Bench) -> Iterator[Letter]:
    """Sets of dims of one real extent with the literals that may be their size, large sets first."""
    shapes = [operand.shape for operand in bench.form.operands]
    candidates: list[Letter] = []
    for extent in sorted({n for shape in shapes for n in shape if n > 1}):
        dims = [[*(d for d, n in enumerate(shape) if n == extent), -1] for shape in shapes]
        sizes = [
            place for place, v in literals(bench.form.args, bench.form.kwargs) if v == extent and place in bench.tied
        ]
        for picked in itertools.islice(itertools.product(*dims), _MOST_CANDIDATES):
            if any(dim >= 0 for dim in picked):
                candidates += [Letter(picked, literals=chosen) for chosen in _subsets(sizes)]
        if len(candidates) > _MOST_CANDIDATES:
            raise Unfit("it has too many dims of one extent to try")
    return iter(sorted(candidates, key=lambda letter: (-sum(dim >= 0 for dim in letter.operands), letter.operands)))


def _subsets(places: Sequence[Place]) -> list[tuple[Place, ...]]:
    """All, none, each alone."""
    return list(dict.fromkeys([tuple(places), (), *((place,) for place in places)]))


def _apart(letter: Letter, other: Letter) -> bool:
    """Whether two letters share no dim of an operand or result, and no literal."""
    pairs = [*zip(letter.operands, other.operands, strict=True), *zip(letter.results, other.results, strict=False)]
    return not any(a == b >= 0 for a, b in pairs) and not set(letter.literals) & set(other.literals)


def _tried(bench: _Bench, letter: Letter) -> Letter | None:
    """The candidate with all that belongs to it if it is a letter."""
    whole = bench.wholes[0][0]
    guess = _guessed(bench.form, whole, letter)
    if guess is None:
        return None
    n = _extent(whole.variant, guess)
    for able in (guess, *_with_addends(bench.form, guess)):
        if _quietly(lambda able=able: agrees(bench.form, whole, able, _halves(n))):  # type: ignore[misc]
            return _proved(bench, able)
    return None


def _guessed(form: Form, whole: UndividedRun, letter: Letter) -> Letter | None:
    """The dims of the results that change with the letter's rows; None where that is not one dim each, or none."""
    rows = _halves(_extent(whole.variant, letter))[0]
    try:
        results = run(form, *part_of(form, whole, letter, rows, 0, 2))
    except Exception:
        return None
    dims = []
    for result, full in zip(results, whole.results, strict=True):
        if result is None or full is None:
            dims.append(-1)
            continue
        if result.ndim != full.ndim:
            return None
        changed = [d for d in range(full.ndim) if result.shape[d] != full.shape[d]]
        if len(changed) > 1 or not (changed or full.is_floating_point() or full.is_complex()):
            return None  # integers and booleans do not add up
        dims.append(changed[0] if changed else -1)
    return replace(letter, results=tuple(dims))


def _with_addends(form: Form, letter: Letter) -> Iterator[Letter]:
    """The letter with one operand that may be a bias."""
    if any(dim < 0 for dim in letter.results):
        for i, operand in enumerate(form.operands):
            if letter.operands[i] < 0 and operand.floating:
                yield replace(letter, addends=(i,))


def _proved(bench: _Bench, letter: Letter) -> Letter | None:
    """The letter if it holds in every trial in which each rank has a row."""
    form = bench.form
    for at, (variant, wholes) in enumerate(zip(bench.variants, bench.wholes, strict=True)):
        deals = _deals(_extent(variant, letter))
        for kind, whole in enumerate(wholes[1:]):
            tried = deals if at == kind == 0 else deals[:2] if kind < 2 else deals[:1]
            if not _quietly(lambda whole=whole, tried=tried: all(agrees(form, whole, letter, deal) for deal in tried)):  # type: ignore[misc]
                return None
    if not _many_rows(bench, letter):
        return None
    return replace(letter, filled=True)


def _many_rows(bench: _Bench, letter: Letter) -> bool:
    """Whether the letter holds for many rows too, where the call has many."""
    operand, dim = next((i, dim) for i, dim in enumerate(letter.operands) if dim >= 0)
    extent = bench.form.operands[operand].shape[dim]
    longer = lengthened(bench.form, bench.variants[0], extent, bench.tied)
    if longer is None:
        return True

    def trial() -> bool:
        backward = user_functions.kept(bench.form.target) is not None and any(x.flows for x in bench.form.operands)
        whole = undivided(bench.form, longer, Round("unit"), bench.precision, backward=backward)
        n = _extent(longer, letter)
        cut = (tuple(range(n // 3)), tuple(range(n // 3, n)))
        return agrees(bench.form, whole, letter, cut)

    return _quietly(trial)


def _short(bench: _Bench, letter: Letter) -> bool:
    """One deal of every made-up shape."""
    pairs = zip(bench.variants, bench.wholes, strict=True)
    return all(agrees(bench.form, wholes[1], letter, _halves(_extent(variant, letter))) for variant, wholes in pairs)


def _quietly(trial: Callable[[], bool]) -> bool:
    """The answer of a trial; an operator that raises says no."""
    try:
        return trial()
    except Exception:
        return False


def _extent(variant: StandIn, letter: Letter) -> int:
    """The made-up extent of a letter."""
    return next(variant.shapes[i][dim] for i, dim in enumerate(letter.operands) if dim >= 0)


def _halves(n: int) -> tuple[Rows, Rows]:
    return tuple(range(n // 2)), tuple(range(n // 2, n))


def _deals(n: int) -> tuple[tuple[Rows, ...], ...]:
    """Rows for two or three ranks: one and the rest, thirds, every other row, halves, the rest and one."""
    every = tuple(range(n))
    thirds = (every[: n // 3], every[n // 3 : n // 3 + 1], every[n // 3 + 1 :])
    deals = [(every[:1], every[1:]), thirds, (every[::2], every[1::2]), _halves(n), (every[:-1], every[-1:])]
    return tuple(deal for deal in deals if all(deal))
