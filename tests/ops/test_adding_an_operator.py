"""docs/adding_an_operator.md does what it says: its code is run as it stands."""

import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import autopar
from autopar.errors import ConfigError
from autopar.ir.machine import load as load_machine
from autopar.ir.plan_file import to_json
from autopar.model_file import load
from autopar.ops import Op, function, letters
from autopar.ops.registry import record_of, registry
from autopar.proof.record_proof import NAMES
from autopar.runtime import simulate
from autopar.runtime.parameters.deferred_init import module_values
from autopar.runtime.program.plan_reader import parse_description
from autopar.runtime.session.parallel_module import Parallel

DOCUMENT = Path(__file__).parents[2] / "docs" / "adding_an_operator.md"
PINS = re.findall(r'--pin "(.*?)"', DOCUMENT.read_text())
BLOCKS = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files of the document, in a folder that Python imports from."""
    place = tmp_path_factory.mktemp("adding")
    for name, text in BLOCKS.items():
        (place / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        yield place
    for name in ("scorer", "unit"):
        sys.modules.pop(name, None)


def test_the_record_is_proved(folder):
    runpy.run_path(str(folder / "test_scorer.py"))["test_every_letter"]()


def test_the_form_with_a_sum_is_proved_and_needs_its_copy(folder, monkeypatch):
    record = runpy.run_path(str(folder / "unit.py"))["UNIT"]
    assert autopar.prove_operator(record) > 0
    monkeypatch.setitem(NAMES, "copy", lambda x, axis: x)
    with pytest.raises(AssertionError, match="gradient 0"):
        autopar.prove_operator(record)


def test_a_model_with_the_operator_computes_the_same(folder):
    file = load(folder / "scorer.py")
    one = autopar.compile(file.model, file.example_inputs, grid="2x2", machine=load_machine("cpu"), pin=PINS)
    assert BLOCKS["program"].strip() in one.source
    torch.manual_seed(0)
    model, inputs = file.model().double(), {key: value.double() for key, value in file.example_inputs().items()}
    loss = model(**inputs)
    loss.backward()
    code, description = compile(one.source, "program.py", "exec"), parse_description(to_json(one.plan), "plan.json")

    def rank():
        names = {"__name__": "program"}
        exec(code, names)
        parallel = Parallel(names["PROGRAM"], description, list(module_values(model)), dtype=torch.float64)
        found = parallel(**inputs)
        found.backward()
        return found.detach(), parallel.full_gradients()

    for found, gradients in simulate(4, rank):
        torch.testing.assert_close(found, loss.detach(), rtol=1e-12, atol=0)
        for key, value in model.named_parameters():
            torch.testing.assert_close(gradients[key], value.grad, rtol=1e-10, atol=1e-14)


def test_a_record_may_replace_one_of_the_library():
    other = replace(registry()["aten.relu.default"], note="mine")
    autopar.register_operator(other)
    try:
        assert record_of("aten.relu.default") is other
    finally:
        from autopar.ops.registry import _OWN

        del _OWN["aten.relu.default"]
    assert record_of("aten.relu.default") is registry()["aten.relu.default"]


@pytest.mark.parametrize("targets", [("lab.nobody.default",), ("aten.relu",), (), ("relu",)])
def test_a_target_that_torch_does_not_have_is_refused(targets):
    def rule(call):
        return letters("b* -> b*", call)

    with pytest.raises(ConfigError, match="operator mine"):
        autopar.register_operator(Op("mine", targets, "b* -> b*", rule, function("torch.relu", 1)))
    assert not any(record_of(target) for target in targets)
