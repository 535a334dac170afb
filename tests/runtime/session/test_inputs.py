"""Ranks that are given different batches are told, in whichever step that happens."""

import pytest
import torch
from small_programs import PROGRAMS, describe, make

from autopar.errors import ProgramMismatch
from autopar.runtime import Grid, simulate
from autopar.runtime.diagnostics.collective_errors import is_alike
from autopar.runtime.parameters.deferred_init import module_values
from autopar.runtime.session.inputs import sample
from autopar.runtime.session.parallel_module import Parallel


def parallel():
    model, inputs = make("mlp")
    grid = Grid("3x1")
    return Parallel(PROGRAMS["mlp"](grid), describe(model, inputs(0), grid), module_values(model)), inputs


def one_element_changed(x, call):
    x = x.clone()
    x.view(-1)[call % x.numel()] += 1e-12
    return x


@pytest.mark.parametrize(
    ("checked", "change"),
    [
        ("0", lambda x, call: x + torch.rand(x.shape, generator=torch.Generator().manual_seed(call))),
        ("1", one_element_changed),
    ],
    ids=["augmented", "checked"],
)
def test_another_batch_is_told_in_its_step_with_ranks_and_inputs(checked, change, monkeypatch):
    monkeypatch.setenv("AUTOPAR_CHECK", checked)

    def rank():
        p, inputs = parallel()
        for step in range(3):
            given = inputs(step)
            p(**{name: one.t().contiguous().t() if p.grid.rank == 1 else one for name, one in given.items()})
        p.eval()
        if p.grid.rank == 1:
            given["y"] = change(given["y"], step)
        with pytest.raises(ProgramMismatch) as raised:
            p(**given)
        assert is_alike(raised.value)
        p.train()
        p(**inputs(7))
        return str(raised.value)

    said = set(simulate(3, rank))
    assert len(said) == 1
    first, _, offender, *_ = said.pop().splitlines()
    assert first == "inputs of step 4: they differ from rank to rank"
    assert offender == "  - y: of ranks 0, 2; other than rank 1"


@pytest.mark.parametrize("shape", [(), (3,), (5, 7), (2, 3, 40)])
def test_every_element_is_looked_at_in_time(shape):
    x = torch.zeros(shape)
    steps = -(-x.numel() // 16)
    usual = [sample({"x": x}, call) for call in range(steps)]
    for i in range(x.numel()):
        other = x.clone()
        other.view(-1)[i] = 1
        assert [sample({"x": other}, call) for call in range(steps)] != usual


@pytest.mark.parametrize(
    "x", [torch.ones(6, 4)[:, 1:], torch.ones(4, 6).t(), torch.ones(1, 4).expand(6, 4), torch.ones(0, 4)]
)
def test_however_a_batch_lies_it_is_looked_at(x):
    if x.numel():
        assert sample({"x": x}, 3) != sample({"x": x * 2}, 3)
