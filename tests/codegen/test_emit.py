"""Programs as text: golden ones that also run, their length, their names, and the same bytes every time."""

import ast
import builtins
import re
from unittest import mock

import pytest
from compiling import (
    CHOICES,
    CPU,
    EVERY,
    QUICK,
    SLOW,
    assert_computes_the_same,
    captured,
    compiled,
    compiled_once,
    digests,
    made,
)
from shared_captures import of_these_rows
from small_models import published_gpt2, published_gpt2_inputs

import autopar
import autopar.runtime
from autopar.codegen.emit import exchange_text, milliseconds
from autopar.ir.units import bytes_text

GOLDENS = {
    "mlp_grid_2": ("wide_mlp", "2", CPU, ()),
    "mlp_batch_grid_2": ("wide_mlp", "2", CPU, ("fc*: b0@axis0",)),
    "conv_grid_2x2": ("big_image", "2x2", SLOW, ()),
    "gpt_grid_2x2": ("wide_gpt", "data=2,model=2", SLOW, ()),
}
RUNTIME = frozenset(autopar.runtime.__all__)
SMALL = [name for name in EVERY if name not in {model for model, *_ in GOLDENS.values()}]


def golden_program(name):
    model, grid, machine, pins = GOLDENS[name]
    return compiled_once(model, grid, machine, pin=pins)


@pytest.mark.parametrize("name", GOLDENS)
def test_golden_programs(golden, name):
    golden(name, golden_program(name).source)


@pytest.mark.parametrize("name", GOLDENS)
def test_golden_programs_compute_what_the_model_computes(name):
    assert_computes_the_same(golden_program(name), GOLDENS[name][0])


def test_golden_programs_show_what_they_are_there_to_show():
    column_row = golden_program("mlp_grid_2").source
    assert "split n over axis0" in column_row
    assert "split k over axis0" in column_row
    batch = golden_program("mlp_batch_grid_2").source
    assert "split b0 over axis0" in batch
    assert "split n" not in batch
    assert "h over axis0, w over axis1" in golden_program("conv_grid_2x2").source
    blocks = golden_program("gpt_grid_2x2").source
    assert "def block(p, add):" in blocks
    assert "for layer in p.blocks:" in blocks


@pytest.mark.parametrize("model", ["mlp", "wide_mlp"])
@pytest.mark.parametrize(
    ("grid", "machine"), [("2", CPU), ("2", QUICK), ("2", SLOW), ("3", SLOW), ("2x2", CPU), ("data=2,model=2", QUICK)]
)
def test_two_linears_take_at_most_25_lines(model, grid, machine):
    assert len(compiled_once(model, grid, machine).source.splitlines()) <= 25


@pytest.mark.zoo  # of four layers the program is the same text: tests/planning/test_planner_picks.py
def test_twelve_gpt2_layers_take_at_most_120_lines():
    """GPT-2 as published: 768 wide, 50257 tokens, without memory."""
    with mock.patch("autopar.capture.capture", of_these_rows):
        one = autopar.compile(published_gpt2, published_gpt2_inputs(), grid="4x2", name="gpt2")
    assert len(one.source.splitlines()) <= 120
    assert one.source.count("def transformer_block(p, ") == 1
    assert one.solution.gap == 0


@pytest.mark.parametrize("name", ["conv", pytest.param("kinds", marks=pytest.mark.zoo)])
def test_a_model_compiled_twice_gives_the_same_bytes(name):
    assert digests(compiled_once(name, "2x2")) == digests(compiled(name, "2x2"))


@pytest.mark.parametrize(("grid", "seed"), CHOICES)
@pytest.mark.parametrize("name", SMALL)
def test_any_choice_gives_a_program_that_computes_what_the_model_computes(name, grid, seed):
    """Not only the cheapest choice (seed None) is correct."""
    one = compiled_once(name, grid, seed=seed)
    assert_computes_the_same(one, name)
    assert_names(ast.parse(one.source))


def assert_names(tree):
    """Every name is bound before it is read, and none shadows another."""
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    imported = {alias.asname or alias.name for node in imports for alias in node.names}
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    constants = assigned([node for node in tree.body if isinstance(node, ast.Assign)])
    outside = {one.name for one in functions} | constants | imported
    assert imported <= RUNTIME | {"torch", "F"}
    assert imported <= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert len({one.name for one in functions}) == len(functions)
    for function in functions:
        arguments = [one.arg for one in function.args.args]
        inside = assigned(function.body)
        assert len(set(arguments)) == len(arguments)
        assert arguments[0] == "p"
        assert not (inside | set(arguments)) & (outside | RUNTIME)
        assert not inside & {"p", *dir(builtins)}
        undefined(function.body, {*arguments, *outside, *dir(builtins)})


def assigned(body):
    """Names that statements bind, loops and comprehensions included."""
    return {
        node.id
        for statement in body
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def undefined(body, known):
    """Fail where a statement reads a name that nothing has bound before."""
    for statement in body:
        if isinstance(statement, ast.For):
            reads(statement.iter, known)
            known = known | assigned([statement.target])
            undefined(statement.body, known)
        else:
            reads(statement, known)
        known = known | assigned([statement])


def reads(tree, known):
    inner = {one.target.id for node in ast.walk(tree) if isinstance(node, ast.GeneratorExp) for one in node.generators}
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert found - inner <= known, f"{sorted(found - inner - known)} in {ast.unparse(tree)}"


@pytest.mark.parametrize(("grid", "pins"), [("5", ("fc2: n@axis0",)), ("3x2", ("fc2: n@axis0", "fc2: n@axis1"))])
def test_a_rank_may_be_left_without_rows_where_the_user_pins_that(grid, pins):
    assert_computes_the_same(compiled_once("mlp", grid, pin=pins), "mlp")


@pytest.mark.parametrize("name", ["mlp", "conv", "gpt", "attention", "kinds", "counted"])
def test_no_local_extent_is_a_literal(name):
    """The same program computes the same where the ranks are cut unevenly."""
    assert_computes_the_same(compiled_once(name, "2", seed=0), name, {"axis0": (0.0, 0.3, 1.0)})
    assert_computes_the_same(compiled_once(name, "2x2"), name, {"axis0": (0.0, 0.4, 1.0), "axis1": (0.0, 0.7, 1.0)})


def test_a_buffer_is_read_before_it_changes():
    source = compiled_once("counted", "2").source
    assert source.index("p.steps * 2") < source.index("p.steps.add_(1)")


def test_a_list_of_blocks_is_walked_in_the_order_of_the_calls():
    assert "for layer in (p.blocks[2], p.blocks[0], p.blocks[1]):" in compiled_once("backwards", "2").source
    assert "for layer in (p.blocks[i] for i in range(2, 4)):" in compiled_once("kinds", "2").source
    assert re.search(
        r"for layer in p.layers:\n +(\w+) = layer_block\(layer, \1\)\n", compiled_once("layers", "2").source
    )


def test_inputs_keep_their_names_where_those_are_free():
    one = compiled_once("reserved", "2")
    assert "def forward(p, p_, copy_, layer_, F_, input, block):" in one.source
    assert [item.name for item in one.plan.inputs] == ["p", "copy", "layer", "F", "input", "block"]
    assert made("reserved")[1].keys() == {item.name for item in captured("reserved").graph.inputs}


def test_numbers_for_people():
    assert [bytes_text(size) for size in (0, 999, 1000, 1023, 1024, 1.5 * 2**20, 3 * 2**40)] == [
        "0 B", "999 B", "1000 B", "1023 B", "1 KiB", "1.5 MiB", "3 TiB"]  # fmt: skip
    assert [milliseconds(one) for one in (4.1e-7, 0.00123, 0.0994, 0.0996, 0.2, 12)] == [
        "0.00041 ms", "1.2 ms", "99 ms", "100 ms", "200 ms", "12000 ms"]  # fmt: skip
    assert exchange_text(0, 0, 0) == ""
    assert exchange_text(2048, 4096, 1e-3) == "2 KiB + 4 KiB back 1 ms"
