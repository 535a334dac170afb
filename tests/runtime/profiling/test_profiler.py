"""A profiled step computes what it always computes, and all of its time is somebody's."""

import ast
import functools
import linecache
import math
from types import SimpleNamespace

import pytest
import torch
from compiling import QUICK, compiled, compiled_once, made

import autopar
from autopar.errors import ConfigError, ProgramMismatch
from autopar.ir.grid import GridShape
from autopar.ir.plan_file import to_json
from autopar.ir.profile import load_profile
from autopar.runtime import simulate
from autopar.runtime.parameters.deferred_init import module_values
from autopar.runtime.profiling.profiler import Profiler
from autopar.runtime.program.plan_reader import parse_description
from autopar.runtime.session.parallel_module import Parallel

STEPS = 3


@functools.cache
def run(name, grid, *, profiled, source=None, **options):
    """Train a model for a few steps on simulated ranks: its whole state, and the profiler, per rank."""
    one = compiled_once(name, grid, QUICK, **options)
    source = source or one.source
    file = f"<{name} on {grid}, {hash(source)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    code = compile(source, file, "exec")
    description = parse_description(to_json(one.plan), "plan.json")
    known = {name for item in description.parameters for name in (item.name, *item.aliases)}
    model, inputs = made(name)
    values = [*one.constants.items(), *(pair for pair in module_values(model) if pair[0] in known)]
    places = [(place.function, place.text) for place in one.plan.places]

    def rank():
        space = {"__name__": "program"}
        exec(code, space)
        parallel = Parallel(space["PROGRAM"], description, values)
        optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1, momentum=0.9)
        before = [parallel.program, parallel.grid.comm, *(axis.comm for axis in parallel.grid.axes)]
        profiler = Profiler(parallel, places) if profiled else None
        losses = []
        for _ in range(STEPS):
            if profiler is None:
                losses.append(step(parallel, optimizer, inputs))
            else:
                with profiler.step(optimizer):
                    losses.append(step(parallel, optimizer, inputs))
        after = [parallel.program, parallel.grid.comm, *(axis.comm for axis in parallel.grid.axes)]
        assert all(a is b for a, b in zip(before, after, strict=True))
        found = None if profiler is None else (profiler.result(), profiler._steps, profiler.expressions)
        return SimpleNamespace(losses=losses, state=parallel.full_state_dict(), profile=found)

    return one, simulate(GridShape.parse(grid).size, rank)


def step(parallel, optimizer, inputs):
    optimizer.zero_grad()
    loss = parallel(**inputs)
    loss.backward()
    optimizer.step()
    return loss.item()


CASES = [("mlp", "2"), ("conv", "2"), ("gpt", "2x2"), ("norm_twice", "2"), ("heads", "2")]


@pytest.mark.parametrize(("name", "grid"), CASES)
def test_a_profiled_step_computes_the_same_to_the_bit(name, grid):
    _, plain = run(name, grid, profiled=False)
    _, profiled = run(name, grid, profiled=True)
    for one, two in zip(plain, profiled, strict=True):
        assert one.losses == two.losses
        assert all(math.isfinite(loss) for loss in one.losses)
        assert one.state.keys() == two.state.keys()
        for key, value in one.state.items():
            assert torch.equal(value, two.state[key]), key


@pytest.mark.parametrize(("name", "grid"), CASES)
def test_every_call_and_conversion_is_found_in_every_round(name, grid):
    one, ranks = run(name, grid, profiled=True)
    for rank in ranks:
        profiles, _, expressions = rank.profile
        found = {expression.place for expression in expressions}
        assert {i for i, place in enumerate(one.plan.places) if place.text} <= found
        for profile in profiles:
            rounds = {}
            for piece in profile.pieces:
                if piece.kind == "forward":
                    rounds.setdefault(expressions[piece.expression].place, set()).add(piece.round)
            for i, place in enumerate(one.plan.places):
                if place.text and place.calls:
                    assert rounds[i] == set(range(len(place.calls))), place
            backward = {
                expressions[p.expression].place for p in profile.pieces if p.kind == "backward" and p.expression
            }
            heavy = {
                node.name for node in one.plan.nodes if node.target in ("aten.linear.default", "aten.addmm.default")
            }
            for i, place in enumerate(one.plan.places):
                if heavy & set(place.calls):
                    assert i in backward or expressions[0].place == i, place


@pytest.mark.parametrize(("name", "grid"), CASES)
def test_all_time_is_somebodys(name, grid):
    _, ranks = run(name, grid, profiled=True)
    for rank in ranks:
        profiles, steps, _ = rank.profile
        assert len(steps) == STEPS
        for one in steps:
            assert math.fsum(one.seconds().values()) == pytest.approx(one.total, rel=1e-9)
            times = [time for _, start, end in one.spans() for time in (start, end)]
            assert times == sorted(times)
        for profile in profiles:
            assert len(profile.steps) == STEPS
            kinds = {piece.kind for piece in profile.pieces}
            assert {"forward", "backward", "update", "inputs", "other"} <= kinds
            assert all(start <= end for _, start, end in (*profile.spans, *profile.flights))


def test_what_is_sent_is_counted():
    one, ranks = run("mlp", "2", profiled=True)
    profiles, _, expressions = ranks[0].profile
    sent = {}
    for piece in profiles[0].pieces:
        if piece.kind in ("communication", "adjoint") and piece.expression is not None:
            place = one.plan.places[expressions[piece.expression].place]
            if place.conversion is not None:
                sent[place.conversion] = sent.get(place.conversion, 0) + piece.sent
    expected = {i: int(item.bytes_forward + item.bytes_adjoint) for i, item in enumerate(one.plan.conversions)}
    assert sent
    assert all(sent[i] == expected[i] for i in sent)


def test_an_edited_program_is_profiled_too():
    one = compiled("mlp", "2", QUICK)
    tree = ast.parse(one.source)
    forward = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "forward")
    returned = forward.body[-1]
    returned.value = ast.BinOp(returned.value, ast.Mult(), ast.Constant(2.0))
    source = ast.unparse(ast.fix_missing_locations(tree))
    _, ranks = run("mlp", "2", profiled=True, source=source)
    _, _, expressions = ranks[0].profile
    new = [expression for expression in expressions if expression.place is None]
    assert [expression.text.endswith("* 2.0") for expression in new] == [True]
    assert {expression.place for expression in expressions} - {None} == {
        i for i, place in enumerate(one.plan.places) if place.text
    }


def test_a_forward_without_a_source_is_refused():
    parallel = SimpleNamespace(program=SimpleNamespace(forward=len), parameters=lambda: [])
    with pytest.raises(ProgramMismatch, match="rule: what is profiled is a function of the program's file"):
        Profiler(parallel)


def test_a_script_profiles_its_own_steps(tmp_path):
    model, inputs = made("mlp")

    def rank():
        parallel = autopar.parallelize(model, inputs, grid="2")
        optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
        profiler = parallel.profiler()
        with pytest.raises(ConfigError, match="no step was profiled"):
            parallel.save_profile(profiler, tmp_path / "build")
        step(parallel, optimizer, inputs)
        with profiler.step(optimizer):
            step(parallel, optimizer, inputs)
        parallel.save_profile(profiler, tmp_path / "build")

    simulate(2, rank)
    saved = autopar.load(tmp_path / "build")
    plan = (tmp_path / "build" / "plan.json").read_text()
    found = load_profile(tmp_path / "build", saved.source, plan, 2)
    assert [len(one.steps) for one in found.ranks] == [1, 1]
    assert {one.place for one in found.expressions} == set(range(len(saved.plan.places)))


def test_blocks_that_are_computed_again_in_backward():
    one, ranks = run("gpt", "2", profiled=True, recompute="always")
    assert "recompute(" in one.source
    profiles, steps, expressions = ranks[0].profile
    assert all(expression.place is not None for expression in expressions)
    placed = {
        expressions[piece.expression].place
        for piece in profiles[0].pieces
        if piece.kind == "backward" and piece.expression is not None
    }
    inside = {i for i, place in enumerate(one.plan.places) if len(place.calls) > 1 and place.text}
    assert inside <= placed
    assert math.fsum(steps[0].seconds().values()) == pytest.approx(steps[0].total, rel=1e-9)
