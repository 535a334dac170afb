"""The checker lets sound steps through and objects to every mutation of them."""

import dataclasses
import itertools
import random

import pytest
from compiling import CHOICES, compiled_once, lowered
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.codegen import soundness as checker
from autopar.codegen.soundness import CollectiveEntry, UnsoundProgram, check, check_order, events
from autopar.codegen.steps import Convert, LocalValue, Loop, Run, Update
from autopar.ir.layout import Copied, Partial, Replicate, Shard

MODELS = ("mlp", "conv", "gpt", "pairs", "counted")


@pytest.fixture(
    scope="module",
    params=[(name, *choice) for name in MODELS for choice in CHOICES],
    ids=lambda it: "-".join(map(str, it)),
)
def sound(request):
    """A decision, its steps, and the grid: of a drawn choice, and of the cheapest one."""
    name, grid, seed = request.param
    one = compiled_once(name, grid, seed=seed)
    return *lowered(one), one.built.grid


def refused(program, decision, grid, storage=None):
    with pytest.raises(UnsoundProgram):
        check(program, decision.storage if storage is None else storage, grid)


def places(steps, kind):
    """The paths of all steps of a kind: an index, or two where the step stands in a loop."""
    found = [(i,) for i, step in enumerate(steps) if isinstance(step, kind)]
    loops = [(i, step) for i, step in enumerate(steps) if isinstance(step, Loop)]
    return found + [(i, j) for i, loop in loops for j, step in enumerate(loop.body) if isinstance(step, kind)]


def at(steps, place):
    step = steps[place[0]]
    return step if len(place) == 1 else step.body[place[1]]


def put(program, place, *new):
    """The program with the step at this place replaced by others."""

    def changed(steps, i, made):
        return (*steps[:i], *made, *steps[i + 1 :])

    if len(place) == 2:
        loop = program.steps[place[0]]
        new = (dataclasses.replace(loop, body=changed(loop.body, place[1], new)),)
    return dataclasses.replace(program, steps=changed(program.steps, place[0], new))


def some(found, count=12):
    """A few of many, always the same."""
    return random.Random(0).sample(found, min(count, len(found)))


def test_sound_programs_pass(sound):
    decision, program, grid = sound
    check(program, decision.storage, grid)


def test_a_dropped_step(sound):
    """A conversion, a call or a loop whose result is read is missing."""
    decision, program, grid = sound
    for place in some(places(program.steps, Convert | Loop)):
        refused(put(program, place), decision, grid)
    for place in some(places(program.steps, Run)):
        if read_later(program, at(program.steps, place)):
            refused(put(program, place), decision, grid)


def read_later(program, run):
    every = [at(program.steps, place) for place in places(program.steps, Run | Convert | Update | Loop)]
    read = {held for step in every for held in (step.reads if isinstance(step.reads, tuple) else (step.reads,))}
    outputs = {held for step in every if isinstance(step, Loop) for held in step.outputs}
    return set(run.writes) & (read | outputs | {program.loss})


def test_a_step_before_what_it_reads(sound):
    decision, program, grid = sound
    for place in some(places(program.steps, Convert | Run)):
        after = (*place[:-1], place[-1] + 1)
        steps = program.steps if len(place) == 1 else program.steps[place[0]].body
        if after[-1] == len(steps):
            continue
        first, second = steps[place[-1]], steps[after[-1]]
        made = {first.writes} if isinstance(first, Convert) else set(first.writes)
        if made & set(second.reads if isinstance(second.reads, tuple) else (second.reads,)):
            refused(put(put(program, place, second), after, first), decision, grid)


def test_another_axis_or_primitive(sound):
    decision, program, grid = sound
    for place in some(places(program.steps, Convert)):
        step = at(program.steps, place)
        for axis in range(len(grid.sizes)):
            if axis != step.conversion.axis:
                moved = dataclasses.replace(step.conversion, axis=axis)
                refused(put(program, place, dataclasses.replace(step, conversion=moved)), decision, grid)
        other = "gather" if step.conversion.primitive == "all_gather" else "all_gather"
        named = dataclasses.replace(step.conversion, primitive=other)
        refused(put(program, place, dataclasses.replace(step, conversion=named)), decision, grid)


def other_layouts(layouts):
    """The same with one layout exchanged for another that it could be taken for."""
    for i, layout in enumerate(layouts):
        swaps = [Replicate() if isinstance(layout, Copied) else Copied(), Partial(), Shard(0, 7)]
        yield from ((*layouts[:i], swap, *layouts[i + 1 :]) for swap in swaps if swap != layout)


def test_another_layout_of_what_a_step_makes(sound):
    """Copied for Replicate, Replicate for Copied, an addend for the whole."""
    decision, program, grid = sound
    for place in some(places(program.steps, Convert | Run)):
        step = at(program.steps, place)
        writes = step.writes if isinstance(step, Run) else (step.writes,)
        for i, held in enumerate(writes):
            for layouts in other_layouts(held.layouts) if held is not None else ():
                made = (*writes[:i], LocalValue(held.value, layouts), *writes[i + 1 :])
                new = dataclasses.replace(step, writes=made if isinstance(step, Run) else made[0])
                refused(put(program, place, new), decision, grid)


def test_another_layout_of_what_a_step_reads(sound):
    decision, program, grid = sound
    for place in some(places(program.steps, Run)):
        step = at(program.steps, place)
        for i, held in enumerate(step.reads):
            for layouts in other_layouts(held.layouts):
                reads = (*step.reads[:i], LocalValue(held.value, layouts), *step.reads[i + 1 :])
                refused(put(program, place, dataclasses.replace(step, reads=reads)), decision, grid)


def test_another_home(sound):
    """A parameter stored otherwise than the program reads it."""
    decision, program, grid = sound
    every = [at(program.steps, place) for place in places(program.steps, Run | Convert)]
    read = {held for step in every for held in (step.reads if isinstance(step.reads, tuple) else (step.reads,))}
    for name, layouts in decision.storage.items():
        if LocalValue(name, layouts) in read:
            for other in other_layouts(layouts):
                refused(program, decision, grid, {**decision.storage, name: other})


def test_another_choice_of_a_call(sound):
    """Operands and results lie as before, but the call would do something else with them."""
    decision, program, grid = sound
    for place in some(places(program.steps, Run)):
        step = at(program.steps, place)
        for axis, choice in enumerate(step.strategy):
            for other in ("split", "linear", "replicate"):
                wrong = dataclasses.replace(choice, mode=other, letter="nothing" if other == "split" else "")
                if wrong.mode != choice.mode and choice.letter:
                    strategy = (*step.strategy[:axis], wrong, *step.strategy[axis + 1 :])
                    refused(put(program, place, dataclasses.replace(step, strategy=strategy)), decision, grid)


class Everything:
    def __contains__(self, choice):
        return True


def test_a_rule_that_takes_one_meaning_of_whole_for_the_other(sound, monkeypatch):
    """The step, its choice and the rule agree, and all are wrong: the layouts alone say so."""
    monkeypatch.setattr(checker, "choices", lambda *given: Everything())
    _, program, _ = sound
    every = [at(program.steps, place) for place in places(program.steps, Run)]
    wrong = [one for step in every for one in in_the_other_meaning(step)]
    for step in wrong:
        with pytest.raises(UnsoundProgram, match="another meaning"):
            checker._check_run(step)


def in_the_other_meaning(step):
    """The step with the operands of one axis that are whole and have a gradient in the other meaning of whole."""
    call, other = step.annotated.call, {Copied(): Replicate(), Replicate(): Copied()}
    flows = [i for i, value in enumerate(call.operands) if value.differentiable]
    if any(value.differentiable for value, held in zip(call.results, step.writes, strict=True) if held is not None):
        for axis, choice in enumerate(step.strategy):
            turned = {i: other[choice.operands[i]] for i in flows if choice.operands[i] in other}
            operands = tuple(turned.get(i, layout) for i, layout in enumerate(choice.operands))
            reads = tuple(
                LocalValue(one.value, put_at(one.layouts, axis, operands[i])) for i, one in enumerate(step.reads)
            )
            strategy = put_at(step.strategy, axis, dataclasses.replace(choice, operands=operands))
            yield from [dataclasses.replace(step, strategy=strategy, reads=reads)] if turned else []


def put_at(items, place, item):
    return (*items[:place], item, *items[place + 1 :])


def test_a_loop_whose_rounds_do_not_meet(sound):
    decision, program, grid = sound
    for place in places(program.steps, Loop):
        loop = at(program.steps, place)
        for field in ("entries", "reads", "outputs", "writes"):
            for i, held in enumerate(getattr(loop, field)):
                for layouts in other_layouts(held.layouts):
                    held_so = list(getattr(loop, field))
                    held_so[i] = LocalValue(held.value, layouts)
                    refused(put(program, place, dataclasses.replace(loop, **{field: tuple(held_so)})), decision, grid)


def test_a_block_whose_parameters_lie_otherwise_than_those_of_the_first(sound):
    decision, program, grid = sound
    for place in places(program.steps, Loop):
        for node in at(program.steps, place).repeat.nodes[1]:
            for name in set(node.inputs) & set(decision.storage):
                for layouts in other_layouts(decision.storage[name]):
                    refused(program, decision, grid, {**decision.storage, name: layouts})


def test_a_buffer_that_takes_a_value_in_another_layout(sound):
    decision, program, grid = sound
    for place in places(program.steps, Update):
        step = at(program.steps, place)
        for layouts in other_layouts(step.reads.layouts):
            wrong = dataclasses.replace(step, reads=LocalValue(step.reads.value, layouts))
            refused(put(program, place, wrong), decision, grid)


def test_a_loss_that_is_not_whole(sound):
    decision, program, grid = sound
    for layouts in other_layouts(program.loss.layouts):
        refused(dataclasses.replace(program, loss=LocalValue(program.loss.value, layouts)), decision, grid)


def test_an_inner_cut_is_undone_before_the_outer_one():
    """Rank (i, j) holds part j of part i: gathered over the outer axis alone, the parts do not lie side by side."""
    one = compiled_once("mlp", "2x2")
    decision, program = lowered(one)
    inside = LocalValue("x", (Shard(0), Shard(0)))
    convert = next(step for step in program.steps if isinstance(step, Convert))
    for axis, after in ((0, (Replicate(), Shard(0))), (1, (Shard(0), Replicate()))):
        conversion = dataclasses.replace(
            convert.conversion, primitive="gather", axis=axis, before=inside.layouts, after=after
        )
        step = dataclasses.replace(convert, conversion=conversion, reads=inside, writes=LocalValue("x", after))
        storage = {**decision.storage, "x": inside.layouts}
        program_of_one = dataclasses.replace(
            program, steps=(step,), loss=LocalValue("done", (Replicate(), Replicate()))
        )
        storage["done"] = program_of_one.loss.layouts
        if axis == 0:
            refused(program_of_one, decision, one.built.grid, storage)
        else:
            check(program_of_one, storage, one.built.grid)


def test_running_statistics_change_where_they_are_stored():
    one = compiled_once("conv", "2")
    decision, program = lowered(one)
    split = [name for name in decision.storage if name.endswith("running_mean")]
    assert split
    refused(program, decision, one.built.grid, {**decision.storage, split[0]: (Shard(0, 2),)})


def ranks_of(grid):
    return list(itertools.product(*map(range, grid.sizes)))


def test_ranks_that_enter_the_same_collectives_in_one_order_pass(sound):
    _, program, grid = sound
    check_order({rank: events(program) for rank in ranks_of(grid)})


def test_an_event_that_one_rank_leaves_out(sound):
    _, program, grid = sound
    every = events(program)
    for i in some(range(len(every))):
        for rank in ranks_of(grid):
            queues = {one: every for one in ranks_of(grid)} | {rank: every[:i] + every[i + 1 :]}
            with pytest.raises(UnsoundProgram, match="wait"):
                check_order(queues)


def test_two_events_that_one_rank_enters_in_the_other_order(sound):
    """Over one axis: the partners wait in the one while the rank waits in the other."""
    _, program, grid = sound
    every = events(program)
    pairs = [(i, j) for i, j in itertools.combinations(range(len(every)), 2) if every[i].axis == every[j].axis]
    for i, j in some([(i, j) for i, j in pairs if every[i] != every[j]]):
        for rank in ranks_of(grid):
            swapped = [*every[:i], every[j], *every[i + 1 : j], every[i], *every[j + 1 :]]
            with pytest.raises(UnsoundProgram, match="wait"):
                check_order({one: every for one in ranks_of(grid)} | {rank: swapped})


def test_ranks_of_different_groups_need_not_keep_step():
    """Rows of a grid may have their own collectives over the columns' axis."""
    one = events(lowered(compiled_once("mlp", "2x2"))[1])
    inner = [event for event in one if event.axis == 1]
    assert inner
    check_order({(i, j): inner if i else [] for i in range(2) for j in range(2)})
    with pytest.raises(UnsoundProgram):
        check_order({(i, j): inner if j else [] for i in range(2) for j in range(2)})


def step_by_step(by_rank):
    """Whether all ranks get through, found by letting any group go on that can, until none can."""
    at = dict.fromkeys(by_rank, 0)

    def head(rank):
        return by_rank[rank][at[rank]] if at[rank] < len(by_rank[rank]) else None

    def beside(rank, axis):
        return [
            one for one in by_rank if all(i == axis or a == b for i, (a, b) in enumerate(zip(one, rank, strict=True)))
        ]

    while True:
        able = [
            rank for rank in by_rank if head(rank) and all(head(o) == head(rank) for o in beside(rank, head(rank).axis))
        ]
        if not able:
            return all(at[rank] == len(queue) for rank, queue in by_rank.items())
        for one in beside(able[0], head(able[0]).axis):
            at[one] += 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), max_size=5),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4), st.integers(0, 4)), max_size=2),
)
def test_ranks_get_through_exactly_where_a_simulation_does(kinds, swaps):
    every = [CollectiveEntry("all_sum", axis, (name,)) for axis, name in kinds]
    ranks = list(itertools.product(range(2), range(3)))
    queues = {rank: list(every) for rank in ranks}
    for rank, i, j in swaps:
        queue = queues[ranks[rank]]
        if max(i, j) < len(queue):
            queue[i], queue[j] = queue[j], queue[i]
    if step_by_step(queues):
        check_order(queues)
    else:
        with pytest.raises(UnsoundProgram, match="wait"):
            check_order(queues)


def test_a_large_grid_takes_one_visit_per_entry():
    """4096 ranks: looking at all pairs of them would take minutes."""
    every = [CollectiveEntry("all_sum", i % 2, (i,)) for i in range(100)]
    ranks = list(itertools.product(range(64), range(64)))
    check_order(dict.fromkeys(ranks, every))
    late = [*every[:90], every[92], every[91], every[90], *every[93:]]
    with pytest.raises(UnsoundProgram, match="and 4080 ranks more"):
        check_order(dict.fromkeys(ranks, every) | {(63, 63): late})
