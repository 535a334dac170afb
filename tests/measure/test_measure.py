"""Jobs to time, what runs in a worker, what is kept on disk. No test looks at a clock."""

import dataclasses
import functools

import pytest
import torch
from compiling import CPU, captured, made
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import MODELS

import autopar
from autopar.costmodel.compute import node_seconds, rank_seconds
from autopar.costmodel.op_timings import Timings
from autopar.ir.grid import GridShape
from autopar.measure import cache, measure, worker
from autopar.measure.null_comm import Mute
from autopar.measure.pool import Pool
from autopar.measure.timed_call import TimedCall, TimedOperand, images_of, timed_call_of
from autopar.measure.worker import runs, seconds
from autopar.ops.annotated import annotate
from autopar.partitioner.formulation.strategies import strategies_of
from autopar.runtime.calibration.stopwatch import Watch
from autopar.runtime.grid.grid import Axis

GRID = GridShape.parse("2")


def jobs(name, grid=GRID):
    graph = captured(name).graph
    parameters = frozenset(item.value for item in graph.parameters)
    return {
        (node, strategy): timed_call_of(item, strategy, grid, parameters, images_of(graph))
        for node, item in strategies_of(annotate(graph), grid, {}).items()
        if item.op.work != "view"
        for strategy in item.strategies
    }


known = functools.cache(runs)  # the same call comes on several grids


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("grid", ["2", "3", "2x2"])
def test_every_call_of_the_small_models_can_be_timed(name, grid):
    every = dict.fromkeys(jobs(name, GridShape.parse(grid)).values())
    refused = [job.text for job in every if not known(job)]
    assert not refused


def test_a_job_has_the_programs_line_and_local_shapes():
    found = {job.text: job for (node, _), job in jobs("mlp").items() if node == "fc1"}
    assert "F.linear(x0, x1, x2)" in found
    shapes = {tuple(one.shape for one in job.operands) for (node, _), job in jobs("mlp").items() if node == "fc1"}
    x = made("mlp")[1]["x"]
    rows, columns = x.shape
    whole = captured("mlp").graph.values["fc1"].shape[1]
    assert ((rows, columns), (whole, columns), (whole,)) in shapes
    assert ((rows, columns), (-(-whole // 2), columns), (-(-whole // 2),)) in shapes


def test_repeated_blocks_are_timed_once():
    graph = captured("gpt").graph
    found = jobs("gpt")
    modules = {node.name: node.module for node in graph.nodes}
    blocks = {name for name, _ in found if ".1" in modules[name] or ".0" in modules[name]}
    first = {name for name in blocks if ".0" in modules[name]}
    assert len(blocks) > len(first) > 0
    one = {found[key] for key in found if key[0] in first}
    assert {found[key] for key in found if key[0] in blocks} == one


def test_a_call_that_nobody_can_run_is_left_to_the_roofline():
    assert (
        seconds(TimedCall("torch.nothing_like_it(x0)", (), (TimedOperand((2,), "float32", True, False, False),)))
        is None
    )


def test_integers_stay_below_what_they_count():
    table = TimedOperand((5, 3), "float32", True, True, False)
    index = TimedOperand((4,), "int64", False, False, False)
    assert seconds(TimedCall("F.embedding(x0, x1)", (), (index, table))) is not None


def test_images_are_timed_in_the_order_of_images():
    graph = captured("convnet").graph if "convnet" in MODELS else None
    names = [name for name in sorted(MODELS) if images_of(captured(name).graph)]
    assert names, "no small model reads images"
    graph = captured(names[0]).graph
    assert {item.value for item in graph.inputs} & images_of(graph)
    assert not images_of(captured("mlp").graph)


@given(st.integers(1, 4), st.data())
@settings(deadline=None, max_examples=30)
def test_a_mute_communicator_answers_in_the_shapes_asked_for(size, data):
    rank = data.draw(st.integers(0, size - 1))
    comm = Mute(rank, size)
    sizes = data.draw(st.lists(st.integers(0, 5), min_size=size, max_size=size))
    mine = torch.ones(sizes[rank])
    outs = [torch.full((n,), 7.0) for n in sizes]
    comm.all_gather(mine, outs)
    assert [one.sum().item() for one in outs] == [n if i == rank else 0 for i, n in enumerate(sizes)]
    recvs = [torch.full((n,), 7.0) for n in sizes]
    comm.all_to_all([torch.ones(n) for n in sizes], recvs)
    assert [one.sum().item() for one in recvs] == [n if i == rank else 0 for i, n in enumerate(sizes)]
    summed = torch.ones(3)
    comm.all_reduce(summed)
    assert summed.tolist() == [1.0] * 3
    assert comm.start_all_reduce(summed).test()
    assert Axis("data", comm).part(10) == -(-10 // size) or rank >= 10 % size


def test_what_was_timed_is_priced():
    graph = captured("mlp").graph
    name, item = next(
        (name, one) for name, one in strategies_of(annotate(graph), GRID, {}).items() if one.op.work != "view"
    )
    given = (item.call, item.rule, item.op, item.strategies[0], GRID, CPU)
    assert node_seconds(*given, Timings({(name, item.strategies[0]): (1.0, 2.0)})) == (1.0, 2.0)
    assert node_seconds(*given, Timings({("another", item.strategies[0]): (1.0, 2.0)})) == node_seconds(*given)


def test_what_was_timed_costs_a_rank_with_few_rows_its_start_as_well():
    rows = GridShape.parse("4").cut({"axis0": (0.0, 0.5, 0.75, 1.0, 1.0)})
    described = strategies_of(annotate(captured("mlp").graph), GridShape.parse("4"), {})
    name, item, split = next(
        (name, item, strategy)
        for name, item in described.items()
        for strategy in item.strategies
        if item.op.work != "view" and strategy[0].mode == "split" and item.rule.extents[strategy[0].letter] % 4 == 0
    )
    timed, floor = Timings({(name, split): (1.0, CPU.launch_floor / 2)}), CPU.launch_floor
    most, none = (
        rank_seconds(item.call, item.rule, item.op, split, rows.seen_from(rank), CPU, timed) for rank in (0, 3)
    )
    assert most == pytest.approx((2.0 - floor, floor / 2))
    assert none == pytest.approx((floor, floor / 2))


def test_known_jobs_are_not_timed_again_and_compile_plans_by_what_was_timed(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOPAR_CACHE", str(tmp_path))
    monkeypatch.setattr(worker, "Watch", lambda _=0: Watch(0))  # clearing the caches is nearly all that a job takes
    graph = captured("mlp").graph
    described = strategies_of(annotate(graph), GRID, {})
    shown = []
    first, count, new = measure(graph, described, GRID, CPU, lambda done, of: shown.append((done, of)))
    assert 0 < new == count
    assert shown[-1] == (3 * count, 3 * count)
    again, _, none = measure(graph, described, GRID, CPU)
    assert none == 0
    assert again.seconds == first.seconds
    assert list(tmp_path.rglob("*.json"))
    check_compiled(again)


def test_a_damaged_file_counts_as_empty(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOPAR_CACHE", str(tmp_path))
    cache.write(2, {"x": (1.0, 2.0)})
    (file,) = tmp_path.rglob("*.json")
    assert cache.read(2) == {"x": (1.0, 2.0)}
    assert cache.read(3) == {}
    file.write_text("{")
    assert cache.read(2) == {}


def test_a_worker_that_ends_is_told(monkeypatch):
    with Pool(1) as pool:
        pool._workers[0].terminate()
        pool._workers[0].join()
        with pytest.raises(autopar.errors.AutoparError, match="has ended"):
            pool.time(TimedCall("x0", (), (TimedOperand((2,), "float32", True, False, False),)))


def check_compiled(seconds):
    module, inputs = made("mlp")
    machine = dataclasses.replace(CPU, name="made")
    said = []
    compiled = autopar.compile(
        module,
        inputs,
        grid="2",
        machine=machine,
        measure=True,
        progress=lambda stage, text, _: said.append((stage, text)),
    )
    assert "measured" in dict(said)
    assert compiled.plan.options.measure
    chosen = dict(zip(compiled.built.keys, compiled.solution.choice, strict=True))
    item = compiled.built.calls["fc1"]
    timed = compiled.built.timings.of("fc1", item.strategies[chosen["node:fc1"]])
    node = next(one for one in compiled.plan.nodes if one.name == "fc1")
    assert timed == (node.seconds_forward, node.seconds_backward)
    assert timed in seconds.seconds.values()
