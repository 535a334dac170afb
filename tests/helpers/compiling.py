"""Compiles small models and model files, each captured once, and runs programs on simulated ranks beside the sequential model."""

import copy
import dataclasses
import functools
import hashlib
import random
import runpy
from unittest import mock

import live
import numpy as np
import torch
from odd_models import ODD
from shared_captures import of_these_rows, shared
from small_models import MODELS

import autopar
from autopar.capture import capture
from autopar.codegen.lower import lower
from autopar.costmodel.compute import parameter_seconds
from autopar.ir.grid import GridShape
from autopar.ir.layout import parse_layout
from autopar.ir.machine import Link
from autopar.ir.machine import load as load_machine
from autopar.ir.plan import ModelSource
from autopar.ir.plan_file import to_json
from autopar.model_file import load
from autopar.partitioner.formulation.priced_problem import decide
from autopar.partitioner.problem import Solution, evaluate
from autopar.planning.overlap import with_less_overlap
from autopar.runtime import simulate
from autopar.runtime.parameters.deferred_init import module_values
from autopar.runtime.program.plan_reader import parse_description
from autopar.runtime.session.compiled_job import open_job
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.verification.verify import CASES, verify

EVERY = MODELS | ODD
CHOICES = (("2", 0), ("2x2", 1), ("2x2", None))
"""Grids with seeds of a choice that is drawn, or none for the cheapest: `compiled_once` for every model and these."""
CPU = load_machine("cpu")
QUICK = dataclasses.replace(CPU, name="quick", launch_floor=1e-9, intra=Link(1e-9, 1e12))  # whatever can be split is
SLOW = dataclasses.replace(  # a split pays, and so does every message saved
    CPU,
    name="slow",
    memory_bandwidth=1e8,
    launch_floor=0.0,
    intra=Link(1e-6, 1e8),
    flops=(("float32", 1e7),),
    efficiency=tuple((work, 1.0) for work, _ in CPU.efficiency),
)


def made(name):
    """The model and its inputs, the same on every call."""
    build, inputs = EVERY[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(), inputs()


def captured(name):
    """A live model, captured; it is the same afterwards."""
    return shared(name, lambda: _captured(name))


def _captured(name):
    model, inputs = made(name)
    before = live.picture(model)
    found = capture(model, inputs, name=name)
    assert live.changes(before, live.picture(model)) == []
    return found


def compiled(name, grid, machine=SLOW, solve=None, **options):
    """What `autopar.compile` makes of a model; `solve` replaces the solver."""
    patches = [mock.patch("autopar.capture.capture", return_value=captured(name))]
    if solve is not None:
        patches.append(mock.patch("autopar.planning.planner.solve", lambda problem, **_: solve(problem)))
    for patch in patches:
        patch.start()
    try:
        return autopar.compile(EVERY[name][0], made(name)[1], grid=grid, machine=machine, name=name, **options)
    finally:
        for patch in patches:
            patch.stop()


def compiled_once(name, grid, machine=SLOW, seed=None, **options):
    """`compiled`, each only once in a process; a seed draws the choice. Not for tests that patch what a compilation reads."""
    return _compiled_once(name, grid, machine, seed, *sorted(options.items()))  # however a test spells them


@functools.cache
def _compiled_once(name, grid, machine, seed, *options):
    return compiled(name, grid, machine, None if seed is None else drawn(seed), **dict(options))


@functools.cache
def of_file(path, *, name, any_rows=True, outputs=()):
    """A model file, and its graph, for the file's own number of rows only if not `any_rows` (`of_these_rows`)."""
    file = load(path)
    also = {"outputs": outputs} if outputs else {}
    return file, (capture if any_rows else of_these_rows)(file.model, file.example_inputs, name=name, **also)


def compiled_file(path, grid, folder, name, any_rows=True, **options):
    """A model file compiled into a folder, for a machine on which whatever can be split is."""
    file, graph = of_file(path, name=name, any_rows=any_rows, outputs=options.get("outputs", ()))
    source = ModelSource(str(file.path), file.sha256, file.attribute)
    with mock.patch("autopar.capture.capture", return_value=graph):
        one = autopar.compile(
            file.model, file.example_inputs, grid=grid, machine=QUICK, name=name, source=source, **options
        )
    return one.save(folder)


def verified(path, grid, cases=CASES, steps=2):
    """What `autopar verify` finds on rank 0 in these cases, all ranks being threads of this process."""
    torch.set_num_threads(1)

    def rank():
        opened = open_job(runpy.run_path(str(path), run_name="program")["PROGRAM"], path, 0)
        return [one for case in cases for one in verify(opened, case, steps, 0)]

    return simulate(GridShape.parse(grid).size, rank, timeout=300.0)[0]


def as_priced(one):
    """A plan's predicted seconds with gradient sums as the planner prices them: one by one, where the program has buckets."""
    storage = {item.name: tuple(map(parse_layout, item.layouts)) for item in one.plan.parameters}
    machine = with_less_overlap(one.plan.machine, one.plan.solver.unhidden)
    given = (one.plan.options.optimizer, GridShape.parse(one.plan.grid), machine)
    sums = sum(
        parameter_seconds(one.graph.values[item.value], item.kind, storage[item.name], *given)[0]
        for item in one.graph.parameters
    )
    return one.plan.predicted.seconds - one.plan.predicted.gradients + sums


def drawn(seed):
    """A solver that draws a choice among the allowed ones, whatever it costs."""
    return functools.partial(_draw, draw=random.Random(seed))


def _draw(problem, draw):
    near = {i: [] for i in range(len(problem.nodes))}
    for edge in problem.edges:
        near[edge.a].append((edge.b, edge.costs))
        near[edge.b].append((edge.a, edge.costs.T))
    while True:
        choice = {}
        for i, node in enumerate(problem.nodes):
            allowed = np.isfinite(node.costs)
            for other, costs in near[i]:
                if other in choice:
                    allowed = allowed & np.isfinite(costs[:, choice[other]])
            if not allowed.any():
                break
            choice[i] = draw.choice(np.flatnonzero(allowed).tolist())
        if len(choice) == len(problem.nodes):
            found = tuple(choice.values())
            cost, peak = evaluate(problem, found)
            return Solution(found, cost, 0.0, "drawn", 0.0, peak)


def assert_computes_the_same(one, name, cuts=None, relative=1e-10):
    """Run the program in float64: loss, every gradient and every buffer are those of the sequential model.

    `cuts` are fractions at which the ranks of an axis are cut, by the axis's name; even ones without.
    """
    model, inputs = made(name)
    model = model.double()
    inputs = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
    start = copy.deepcopy(model)
    loss = model(**inputs)
    loss.backward()
    gradients = {key: value.grad for key, value in model.named_parameters() if value.grad is not None}
    largest = max(float(value.abs().max()) for value in gradients.values())
    for found_loss, found_gradients, found_state in run(one, start, inputs, cuts):
        assert abs(found_loss - loss) <= relative * abs(loss)
        assert found_gradients.keys() == gradients.keys()
        for key, value in gradients.items():
            allowed = relative * max(float(value.abs().max()), 1e-3 * largest)
            assert float((found_gradients[key] - value).abs().max()) <= allowed, key
        for key, value in model.named_buffers():
            if key in found_state:
                torch.testing.assert_close(found_state[key], value, rtol=relative, atol=relative)


def session_maker(one, model):
    """A function that makes a rank's session in float64, with the parameters that `model` has now."""
    code = compile(one.source, "program.py", "exec")
    description = parse_description(to_json(one.plan), "plan.json")
    known = {name for item in description.parameters for name in (item.name, *item.aliases)}
    values = [*one.constants.items(), *(pair for pair in module_values(model) if pair[0] in known)]

    def session():
        names = {"__name__": "program"}
        exec(code, names)
        return Parallel(names["PROGRAM"], description, values, dtype=torch.float64)

    return session


def run(one, model, inputs, cuts=None):
    """Loss, whole gradients and whole state of one step, on every rank."""
    session = session_maker(one, model)

    def rank():
        parallel = session()
        parallel.rebalance(cuts or {})
        loss = parallel(**inputs)
        loss.backward()
        return loss.detach(), parallel.full_gradients(), parallel.full_state_dict()

    return simulate(GridShape.parse(one.plan.grid).size, rank)


def lowered(one):
    """The decision and the steps of a compiled model."""
    built = one.built
    decision = decide(built, one.solution.choice)
    return decision, lower(built, decision)


def digests(one):
    """Hashes of program and plan."""
    return [hashlib.sha256(text.encode()).hexdigest() for text in (one.source, to_json(one.plan))]
