"""Every call and conversion of a plan has its place in the program, and the places are there in the order of the text."""

import ast

import pytest
from compiling import EVERY, QUICK, compiled


def expressions(source):
    """The texts of all expressions of each function, outer ones first."""
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return {one.name: [ast.unparse(node) for node in preorder(one) if isinstance(node, ast.expr)] for one in functions}


def preorder(node):
    yield node
    for child in ast.iter_child_nodes(node):
        yield from preorder(child)


@pytest.mark.parametrize("grid", ["2", "2x2"])
@pytest.mark.parametrize("name", sorted(EVERY))
def test_every_call_and_conversion_has_a_place(name, grid):
    one = compiled(name, grid, QUICK)
    placed = [call for place in one.plan.places for call in place.calls]
    assert {node.name for node in one.plan.nodes} == set(placed)
    numbers = [place.conversion for place in one.plan.places if place.conversion is not None]
    assert sorted(set(numbers)) == list(range(len(one.plan.conversions)))


@pytest.mark.parametrize("name", sorted(EVERY))
def test_places_stand_in_the_program_in_their_order(name):
    one = compiled(name, "2x2", QUICK)
    found = expressions(one.source)
    at = dict.fromkeys(found, 0)
    for place in one.plan.places:
        if place.text:
            at[place.function] = found[place.function].index(place.text, at[place.function]) + 1
    assert len(one.plan.places) >= len(at)


def test_a_repeated_block_has_one_place_for_all_its_rounds():
    one = compiled("gpt", "2", QUICK)
    rounds = {len(place.calls) for place in one.plan.places if place.function != "forward" and place.calls}
    blocks = {len(members) for _, members in one.plan.repeats}
    assert rounds == blocks
    modules = {node.name: node.module for node in one.plan.nodes}
    for place in one.plan.places:
        if len(place.calls) > 1:
            members = [modules[call].split(".") for call in place.calls]
            assert len({tuple(one) for one in members}) == len(members)
