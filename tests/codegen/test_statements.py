"""From steps to lines: what is written inside what, and how a parameter is reached."""

import pytest
import torch
from compiling import SLOW, compiled, compiled_once, drawn, lowered, made, run
from hypothesis import given
from hypothesis import strategies as st

from autopar.codegen import statements as writing
from autopar.codegen.statements import Style, expression, lines, path_text
from autopar.codegen.steps import Convert, Loop, Run, Update
from autopar.runtime.program.namespace import Namespace


def bodies(name, grid, seed):
    """The lines of every function of a program, before their variables have names."""
    one = compiled_once(name, grid, seed=seed)
    _, program = lowered(one)
    paths = {item.value: path_text(item.name) for item in one.graph.parameters}
    loops = [step for step in program.steps if isinstance(step, Loop)]
    axes = tuple(axis.upper() for axis in one.built.grid.names)
    style = Style(one.graph, axes, paths, {loop.repeat.nodes[0][0].name: "block" for loop in loops})
    yield program.steps, lines(program.steps, (program.loss,), style), style
    for loop in loops:
        yield loop.body, lines(loop.body, loop.outputs, style), style


@pytest.mark.parametrize("seed", [1, None])
@pytest.mark.parametrize("name", ["mlp", "conv", "gpt", "counted", "odd_names", "norm_twice"])
def test_lines_carry_out_every_step_once_and_in_an_order_that_holds(name, seed):
    for steps, body, _ in bodies(name, "2x2", seed):
        done = [step for line in body for step in line.steps]
        made = {held for step in done for held in (step.writes if isinstance(step, Run | Loop) else ())}
        assert len(done) == len({id(step) for step in done})
        assert len([step for step in done if isinstance(step, Run)]) == len(
            [step for step in steps if isinstance(step, Run)]
        )
        assert len([step for step in done if isinstance(step, Convert)]) == len(
            [s for s in steps if isinstance(s, Convert)]
        )
        ready = set()
        for line in body:
            assert not [held for held in line.reads if held in made and held not in ready]
            ready |= set(line.writes)


@pytest.mark.parametrize("seed", [1, None])
@pytest.mark.parametrize("name", ["mlp", "conv", "gpt", "attention"])
def test_a_line_is_short_and_holds_one_heavy_operator(name, seed):
    for _, body, style in bodies(name, "2x2", seed):
        for line in body:
            heavy = [step for step in line.steps if isinstance(step, Run) and step.annotated.op.work in writing._HEAVY]
            assert len(heavy) <= 1
            if len(line.steps) > 1:
                assert len(line.text(lambda held: writing.plain_name(held, style))) <= writing._WIDTH  # noqa: B023


def test_nothing_moves_behind_the_update_of_a_buffer_that_it_reads():
    for _, body, _ in bodies("counted", "2", None):
        updates = [i for i, line in enumerate(body) if isinstance(line.steps[-1], Update)]
        assert updates
        for i in updates:
            stored = body[i].steps[-1].stored
            assert stored not in {held.value for line in body[i + 1 :] for held in line.reads}


@pytest.mark.parametrize("name", ["mlp", "conv", "gpt", "counted", "odd_names", "masked", "reserved", "norm_twice"])
def test_inlining_changes_no_number(name, monkeypatch):
    """Two programs, with and without lines inside lines, compute the same bits."""
    short = compiled(name, "2", SLOW, solve=drawn(5))
    monkeypatch.setattr(writing, "_WIDTH", 0)
    plain = compiled(name, "2", SLOW, solve=drawn(5))
    assert len(plain.source.splitlines()) > len(short.source.splitlines())
    results = []
    for one in (short, plain):
        model, inputs = made(name)
        doubles = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
        results.append(run(one, model.double(), doubles)[0])
    for left, right in zip(results[0], results[1], strict=True):
        pairs = zip(left.values(), right.values(), strict=True) if isinstance(left, dict) else [(left, right)]
        assert all(torch.equal(a, b) for a, b in pairs)


names = st.lists(
    st.one_of(
        st.integers(0, 20).map(str),
        st.sampled_from(["h", "fc", "class", "odd-name", "lambda", "x1", "a b", "'", "None"]),
    ),
    min_size=1,
    max_size=5,
).map(".".join)


@given(names)
def test_a_path_reaches_its_parameter(name):
    tensor = torch.zeros(1)
    assert eval(path_text(name), {"p": Namespace({name: tensor})}) is tensor


def test_an_expression_knows_whether_it_needs_brackets():
    for text in ("x", "p.fc.weight", "f(x) ", "x[0]", "f(x).y", "p['odd']"):
        assert expression(text.strip()).atom
    for text in ("a + b", "-a", "a @ b", "a if b else c", "a < b", "lambda: 0"):
        assert not expression(text).atom
    with pytest.raises(SyntaxError):
        expression("a b")
