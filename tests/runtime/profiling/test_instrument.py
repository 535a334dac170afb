"""Recorders in a program's text: around the right expressions, in the right order, also where it was edited."""

import ast

import pytest

from autopar.runtime.profiling.instrument import RECORDER, instrument

SOURCE = """
def block(p, x):
    return f(x) + p.w


def forward(p, x, y):
    x = x[:, 1:]
    for layer in p.h:
        x = block(layer, x)
    a, b = f(g(x), 2).split(3)
    return f(g(a) + b, y)
"""
PLACES = [
    ("block", "f(x) + p.w"), ("block", "f(x)"), ("forward", "x[:, 1:]"), ("forward", "f(g(x), 2).split(3)"),
    ("forward", "g(x)"), ("forward", ""), ("forward", "f(g(a) + b, y)"), ("forward", "g(a) + b"), ("forward", "g(a)"),
]  # fmt: skip


class Log:
    """A recorder that notes what is called, and in which order."""

    def __init__(self):
        self.calls = []
        self.open = []

    def begin(self, number):
        self.calls.append(number)
        self.open.append(number)
        return number

    def end(self, number, value):
        assert self.open.pop() == number
        return value


def found(source, places=PLACES):
    return {one.place: one.text for one in instrument(source, places).expressions if one.place is not None}


def test_all_places_are_found_by_their_texts():
    assert found(SOURCE) == {i: text for i, (_, text) in enumerate(PLACES) if text}


def test_lines_are_those_of_the_program():
    lines = SOURCE.splitlines()
    made = instrument(SOURCE, PLACES)
    for one in made.expressions:
        assert lines[one.line - 1][one.column :].startswith(one.text[0])
    nodes = [node for node in ast.walk(made.functions) if isinstance(node, ast.Return)]
    assert {node.lineno for node in nodes} == {3, 11}


@pytest.mark.parametrize(
    ("old", "new", "lost"),
    [
        ("g(a) + b", "g(a) - b", {6, 7}),
        ("x = x[:, 1:]", "x = x[:, 2:]", {2}),
        ("    x = x[:, 1:]\n", "", {2}),
        ("    a, b", "    x = g(x)\n    a, b", {3}),  # the first g(x) is now another one
        ("+ p.w", "- p.w", {0}),
        ("def block", "def layers", {0, 1}),
    ],
)
def test_after_an_edit_the_others_are_found(old, new, lost):
    assert old in SOURCE
    wanted = {i: text for i, (_, text) in enumerate(PLACES) if text}
    left = found(SOURCE.replace(old, new, 1))
    assert all(wanted[i] == text for i, text in left.items())
    assert set(wanted) - set(left) <= lost


def test_statements_of_no_place_are_recorded_as_a_whole():
    source = (
        "def forward(p, x):\n    p.n.add_(1)\n    y = f(x) * 2\n    z = y\n    w = forward(p, z)\n    return w, z\n"
    )
    others = [one.text for one in instrument(source, [("forward", "f(x)")]).expressions if one.place is None]
    assert others == ["p.n.add_(1)", "f(x) * 2"]


def test_what_is_computed_and_in_which_order_stays_the_same():
    order = []

    def called(name):
        def function(*arguments):
            order.append((name, arguments))
            return len(order)

        return function

    source = "def forward(p, x):\n    y = f(g(x), h(x) + 1)\n    return [f(i) for i in (y, g(y))][0]\n"
    names = {name: called(name) for name in "fgh"}
    plain, log = dict(names), Log()
    exec(source, plain)
    expected = plain["forward"](None, 5)
    first, order[:] = list(order), []
    places = [("forward", "f(g(x), h(x) + 1)"), ("forward", "g(x)"), ("forward", "h(x) + 1"), ("forward", "g(y)")]
    recorded = dict(names) | {RECORDER: log}
    exec(compile(instrument(source, places).functions, "program.py", "exec"), recorded)
    assert recorded["forward"](None, 5) == expected
    assert order == first
    assert not log.open
    assert len(log.calls) == len(places) + 1  # and the last statement
