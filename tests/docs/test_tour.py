"""docs/tour.md is current: its texts are what is produced for its model, and its links lead to functions that are there."""

import ast
import re
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import pytest
import torch
from compiling import lowered

import autopar
from autopar.capture import format_graph
from autopar.cli.main import main
from autopar.codegen.statements import label
from autopar.ir.plan_file import to_json
from autopar.model_file import load
from autopar.ops.record.rule import choices
from autopar.runtime import simulate
from autopar.runtime.parameters.deferred_init import module_values
from autopar.runtime.program.from_text import program_of
from autopar.runtime.program.plan_reader import parse_description
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.transport.threads import ThreadComm

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
QUOTED = dict(re.findall(r"^```\w+ (\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
LINKS = sorted(set(re.findall(r"\[`([\w.]+)`\]\(\.\./([\w/]+\.py)\)", TEXT)))
SENDS = ("all_gather", "reduce_scatter", "all_reduce", "start_all_reduce", "all_to_all", "exchange")


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """The model file and the compiled model."""
    path = tmp_path_factory.mktemp("tour") / "model.py"
    path.write_text(QUOTED["model"], encoding="utf-8")
    file = load(path)
    return file, autopar.compile(file.model, file.example_inputs(), grid="model=2", optimizer="sgd")


def test_the_texts_of_every_stage(tour, tmp_path, monkeypatch, capsys):
    _, compiled = tour
    call = compiled.built.calls["up"]
    extents = ", ".join(f"{letter} = {extent}" for letter, extent in call.rule.extents.items())
    compiled.save(tmp_path / "build")
    monkeypatch.setattr("autopar.recompile.recompile", lambda folder: compiled)
    assert main(["explain", str(tmp_path / "build"), "up"]) == 0
    produced = {
        "graph": format_graph(compiled.graph),
        "letters": f"{call.op.note}        {extents}\n",
        "choices": "\n".join(map(choice_text, choices(call.rule, call.call, {}))),
        "explain": capsys.readouterr().out,
        "steps": "\n".join(map(label, lowered(compiled)[1].steps)),
        "program": compiled.source,
    }
    for stage, text in produced.items():
        missing = [
            line for line in QUOTED[stage].splitlines() if line.rstrip() not in map(str.rstrip, text.splitlines())
        ]
        assert not missing, f"docs/tour.md, {stage}: {missing}; now\n{text}"


def choice_text(choice):
    operands, results = (", ".join(map(str, layouts)) for layouts in (choice.operands, choice.results))
    return f"{choice!s:<9} | {operands} -> {results}"


def test_the_parts_and_messages_of_a_rank(tour):
    file, compiled = tour
    torch.manual_seed(0)
    module, batch, messages = file.model(), file.example_inputs(), []
    description = parse_description(to_json(compiled.plan), "plan.json")

    def rank():
        parallel = Parallel(program_of(compiled.source, "program.py"), description, module_values(module))
        if parallel.grid.rank == 0:
            messages.clear()
        parallel(**batch).backward()
        return {name: tuple(one.shape) for name, one in parallel.named_parameters()}

    with ExitStack() as stack:
        for name in SENDS:
            stack.enter_context(noted(name, messages))
        parts, _ = simulate(2, rank)
    whole = {name: tuple(one.shape) for name, one in module.named_parameters()}
    lines = [f"{name:<12} {parts[name]} of {whole[name]}" for name in whole if parts[name] != whole[name]]
    assert QUOTED["parts"].splitlines() == [line for line in lines if line.startswith("up")]
    assert QUOTED["messages"].splitlines() == messages


def noted(name, messages):
    """Rank 0's calls of a communicator's method, as lines: when, what, and how many bytes of its own it gives."""
    method = getattr(ThreadComm, name)

    def call(comm, given, *rest):
        if comm.rank == 0:
            size = sum(one.nbytes for one in ([given] if isinstance(given, torch.Tensor) else given))
            way = "backward" if torch._C._current_graph_task_id() >= 0 else "forward"
            messages.append(f"{way:<9} {name:<16} {size:>9} bytes")
        return method(comm, given, *rest)

    return mock.patch.object(ThreadComm, name, call)


@pytest.mark.parametrize(("name", "path"), LINKS)
def test_links_lead_to_functions(name, path):
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    for part in name.split("."):
        found = [one for one in body if getattr(one, "name", None) == part]
        assert found, f"docs/tour.md links to {name} in {path}, which has no {part}"
        body = getattr(found[0], "body", [])


def test_the_tour_is_two_pages():
    assert len(LINKS) > 25
    assert len(TEXT.splitlines()) <= 160
