"""Every call and conversion of a plan has its place in the program, and the places are there in the order of the text."""

import ast

import pytest
from compiling import CHOICES, EVERY, QUICK, compiled_once


def expressions(source):
    """The texts of all expressions of each function, outer ones first."""
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return {one.name: [ast.unparse(node) for node in preorder(one) if isinstance(node, ast.expr)] for one in functions}


def preorder(node):
    yield node
    for child in ast.iter_child_nodes(node):
        yield from preorder(child)


@pytest.mark.parametrize(("grid", "seed"), CHOICES)
@pytest.mark.parametrize("name", sorted(EVERY))
def test_every_call_and_conversion_has_a_place(name, grid, seed):
    one = compiled_once(name, grid, seed=seed)
    placed = [call for place in one.plan.places for call in place.calls]
    assert {node.name for node in one.plan.nodes} == set(placed)
    numbers = [place.conversion for place in one.plan.places if place.conversion is not None]
    assert sorted(set(numbers)) == list(range(len(one.plan.conversions)))


@pytest.mark.parametrize("seed", [1, None])
@pytest.mark.parametrize("name", sorted(EVERY))
def test_places_stand_in_the_program_in_their_order(name, seed):
    one = compiled_once(name, "2x2", seed=seed)
    found = expressions(one.source)
    at = dict.fromkeys(found, 0)
    for place in one.plan.places:
        if place.text:
            at[place.function] = found[place.function].index(place.text, at[place.function]) + 1
    assert len(one.plan.places) >= len(at)


def test_a_repeated_block_has_one_place_for_all_its_rounds():
    one = compiled_once("gpt", "2", QUICK)
    rounds = {len(place.calls) for place in one.plan.places if place.function != "forward" and place.calls}
    blocks = {len(members) for _, members in one.plan.repeats}
    assert rounds == blocks
    modules = {node.name: node.module for node in one.plan.nodes}
    for place in one.plan.places:
        if len(place.calls) > 1:
            members = [modules[call].split(".") for call in place.calls]
            assert len({tuple(one) for one in members}) == len(members)
