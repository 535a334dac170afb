"""Names of variables: every reading finds the value it means, whatever names have been used again in between."""

from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.codegen.naming import assign
from autopar.codegen.statements import Line
from autopar.codegen.steps import LocalValue, Loop
from autopar.ir.layout import Replicate, Shard

RESERVED = frozenset({"copy", "p", "x"})
LAYOUTS = [(Replicate(),), (Shard(0),)]


def line(writes, reads, step=None):
    return Line(tuple(writes), tuple(reads), lambda names: "", (step,))


@st.composite
def functions(draw):
    """Arguments, lines and outputs, with names that want to be the same."""
    bases = ["x", "add", "out"]
    fresh = iter(range(10_000))

    def value():
        return LocalValue(f"{draw(st.sampled_from(bases))}_{next(fresh)}", draw(st.sampled_from(LAYOUTS)))

    arguments = [value() for _ in range(draw(st.integers(0, 3)))]
    known, lines = list(arguments), []
    for _ in range(draw(st.integers(1, 8))):
        reads = draw(st.lists(st.sampled_from(known), max_size=3)) if known else []
        if len(set(reads)) > 1 and draw(st.booleans()):
            one = loop(draw, list(dict.fromkeys(reads)), value)
        else:
            writes = [value() if draw(st.integers(0, 5)) else None for _ in range(draw(st.integers(1, 3)))]
            one = line(writes, reads)
        lines.append(one)
        known += [held for held in one.writes if held is not None]
    outputs = draw(st.lists(st.sampled_from(known), min_size=1, max_size=2)) if known else []
    given_names = {held: f"argument{i}" if draw(st.booleans()) else f"add{i}" for i, held in enumerate(arguments)}
    return given_names, lines, outputs


def loop(draw, reads, value):
    """A loop that carries some of what it reads."""
    count = draw(st.integers(1, len(reads)))
    writes = tuple(value() for _ in range(count))
    carried = tuple((entry, entry) for entry in range(count))
    return line(writes, reads, Loop(None, (), tuple(reads), writes, carried, tuple(reads), writes))


@settings(max_examples=200, deadline=None)
@given(functions())
def test_every_reading_finds_its_value(case):
    given_names, lines, outputs = case
    names = assign(lines, given_names, outputs, {}, RESERVED)
    variables = {name: held for held, name in given_names.items()}
    for one in lines:
        for held in one.reads:
            assert variables[names[held]] == held
        if isinstance(one.steps[-1], Loop):
            run_loop(one.steps[-1], names, variables)
        targets = [names[held] for held in one.writes if held is not None]
        assert len(set(targets)) == len(targets)
        assert not set(targets) & RESERVED
        variables.update({names[held]: held for held in one.writes if held is not None})
    for held in outputs:
        assert variables[names[held]] == held


def run_loop(step, names, variables):
    """Two rounds as the text runs them: starts at once, then calls whose results replace what is carried."""
    carried = dict(step.carried)
    starts = {names[step.writes[output]]: variables[names[step.reads[entry]]] for entry, output in step.carried}
    variables.update(starts)
    for turn in range(2):
        for i, held in enumerate(step.reads):
            name = names[step.writes[carried[i]]] if i in carried else names[held]
            assert variables[name] == (step.writes[carried[i]] if i in carried and turn else held)
        variables.update({names[held]: held for held in step.writes})


@given(functions())
def test_the_same_function_gets_the_same_names(case):
    given_names, lines, outputs = case
    assert assign(lines, given_names, outputs, {}, RESERVED) == assign(lines, given_names, outputs, {}, RESERVED)


def test_a_name_is_free_after_the_last_reading():
    a, b, c = (LocalValue(f"add_{i}", LAYOUTS[0]) for i in range(3))
    names = assign([line([a], []), line([b], [a]), line([c], [b, a])], {}, [c], {}, frozenset())
    assert [names[held] for held in (a, b, c)] == ["add", "add_2", "add"]


def test_the_preferred_name_of_a_converted_parameter():
    weight = LocalValue("h_0_c_fc_weight", LAYOUTS[1])
    assert (
        assign([line([weight], [])], {}, [weight], {weight.value: "c_fc_weight"}, frozenset())[weight] == "c_fc_weight"
    )
