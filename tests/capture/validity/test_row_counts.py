"""Whatever a model does with the number of its rows: a batch of another size is computed as the model would, or refused by name."""

import contextlib
import copy
import logging
import random

import pytest
import sympy
import torch
from batch_forms import ANY, COINCIDENT, LIMITED, OWN, B, Form
from compiling import SLOW, run
from torch import nn
from torch.utils._sympy.functions import Mod

import autopar
from autopar.capture import capture
from autopar.capture.exporting.export import traced
from autopar.capture.exporting.fake_module import arguments, build
from autopar.capture.validity.batch_rows import examples_as_given
from autopar.capture.validity.row_counts import find_row_counts
from autopar.capture.validity.row_guards import Guard, N, Unproved, sizes
from autopar.errors import ProgramMismatch
from autopar.runtime import simulate
from autopar.runtime.program.from_text import program_of
from autopar.runtime.session.compiled_job import open_job, parallel

SIZES = (1, 2, 3, 5, 8, 13, 16)
RUN = (1, 2, 5, 16)  # a rank without rows, one row each, one more than another; even and more than were compiled for


def eager(model, *inputs):
    """Loss and gradients of the sequential model."""
    model.zero_grad()
    loss = model(*inputs)
    loss.backward()
    return loss.detach(), {name: one.grad.clone() for name, one in model.named_parameters()}


def parallel_steps(model, batches):
    """Loss and gradients of these batches on each of two ranks, in float64."""

    def rank():
        made = autopar.parallelize(copy.deepcopy(model), (torch.randn(B, B),), grid="2", machine=SLOW).double()
        made._dtype = torch.float64
        found = []
        for x in batches:
            made.zero_grad()
            loss = made(x)
            loss.backward()
            found.append((loss.detach(), made.full_gradients()))
        return found

    return simulate(2, rank)


def sizes_of(*losses, examples=None):
    """The numbers of rows for which the program of these forms holds. Raises Unproved."""
    model, examples = Form(*losses), examples or (torch.randn(B, B),)
    built = build(model, "form")
    program = traced(model, *arguments(examples, built), "form")
    return find_row_counts(
        built, examples_as_given(examples, ("x", "y")[: len(examples)], model), program, "form"
    ).sizes


def test_what_holds_for_any_number_of_rows_is_computed_as_the_model_does():
    torch.manual_seed(0)
    model = Form(*ANY.values())
    one = autopar.compile(model, (torch.randn(B, B),), grid="2", machine=SLOW)
    assert not one.plan.batch.fixed
    assert all(map(one.plan.batch.accepts, SIZES))
    assert_right_for(one, model, RUN)


def assert_right_for(one, model, sizes, **others):
    """Losses and gradients with so many rows are those of the sequential model."""
    model = model.double()
    for rows in sizes:
        inputs = {"x": torch.randn(rows, B, dtype=torch.float64)} | others
        loss, gradients = eager(model, *inputs.values())
        for found_loss, found, _ in run(one, model, inputs):
            assert abs(found_loss - loss) <= 1e-10 * abs(loss)
            for name, gradient in gradients.items():
                torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-10 * float(gradient.abs().max()))


def test_what_is_proved_of_some_numbers_of_rows_is_right_for_others_of_them():
    """Neither the number that was compiled for nor the one by which the program was printed."""
    torch.manual_seed(0)
    model = Form(*(loss for name, (loss, _) in LIMITED.items() if name != "last"))  # which is for one number of rows
    one = autopar.compile(model, (torch.randn(B, B),), grid="2", machine=SLOW)
    sizes = [rows for rows in range(1, 20) if one.plan.batch.accepts(rows)]
    assert sizes == [8, 10, 12]
    assert_right_for(one, model, sizes)


def test_what_fits_the_rows_by_accident_is_right_for_others_or_refused():
    torch.manual_seed(0)
    example = torch.randn(B, B), torch.randn(2 * B, B)
    proved = []
    for loss in COINCIDENT.values():
        with contextlib.suppress(Unproved):
            proved += [loss] if sizes_of(loss, examples=example).accepts(B - 1) else []
    assert len(proved) > 3
    model = Form(*proved)
    one = autopar.compile(model, example, grid="2", machine=SLOW)
    assert not one.plan.batch.fixed
    assert_right_for(one, model, (B - 1, 12), y=example[1].double())


class Keywords(nn.Module):
    """Takes its inputs by names that it does not declare."""

    def __init__(self):
        super().__init__()
        self.form = Form(ANY["first"])

    def forward(self, **inputs):
        return self.form(inputs["x"])


def test_inputs_without_declared_names_may_have_any_number_of_rows():
    batch = capture(Keywords(), {"x": torch.randn(B, B)}, name="keywords").batch
    assert (batch.inputs, batch.fixed, str(batch.sizes)) == (("x",), "", "any number of rows")


@pytest.mark.parametrize("name", LIMITED)
def test_limits_are_those_of_the_lines_that_count_rows(name):
    loss, expected = LIMITED[name]
    sizes = sizes_of(loss)
    assert str(sizes) == expected
    assert all("batch_forms.py:" in why for why in sizes.why)
    assert sizes.why


@pytest.mark.parametrize("name", OWN)
def test_what_is_something_else_for_every_number_of_rows_is_for_one_and_its_line_named(name):
    with pytest.raises(Unproved, match=r"batch_forms.py:\d+: `"):
        sizes_of(OWN[name])


def test_other_sizes_are_compiled_for_when_they_come(caplog):
    """With constants of their own, over the same parameters; a size comes twice and is compiled for once."""
    torch.manual_seed(0)
    model = Form(OWN["half"], OWN["literal"], LIMITED["if"][0])
    batches = [torch.randn(rows, B, dtype=torch.float64) for rows in (8, 5, 8, 5)]
    with caplog.at_level(logging.INFO, logger="autopar"):
        found = parallel_steps(model, batches)
    assert sum("compiled for a batch of 5 rows: batch_forms.py:" in one.getMessage() for one in caplog.records) == 1
    model = model.double()
    for steps in found:
        for (loss, gradients), x in zip(steps, batches, strict=True):
            expected_loss, expected = eager(model, x)
            assert abs(loss - expected_loss) <= 1e-10 * abs(expected_loss)
            assert gradients.keys() == expected.keys()
            for name, gradient in expected.items():
                torch.testing.assert_close(gradients[name], gradient, rtol=1e-10, atol=1e-12)


def test_sizes_asked_for_are_programs_in_the_folder_and_others_are_refused(tmp_path):
    torch.manual_seed(0)
    model = Form(OWN["log"])
    one = autopar.compile(model, (torch.randn(B, B),), grid="2", machine=SLOW, batch_sizes=(3, 8))
    folder = one.save(tmp_path / "build")
    assert {file.name for file in folder.glob("p*_*")} == {"program_3.py", "plan_3.json"}
    batches = [torch.randn(rows, B) for rows in (8, 3, 5)]

    def rank():
        opened = open_job(program_of((folder / "program.py").read_text(), "program.py"), folder / "program.py", 0)
        model = parallel(opened, 0)
        losses = [model(x).detach() for x in batches[:2]]
        with pytest.raises(ProgramMismatch, match="a batch of 5 rows") as refused:
            model(batches[2])
        return losses, str(refused.value)

    for losses, said in simulate(2, rank):
        torch.testing.assert_close(losses, [model(x).detach() for x in batches[:2]])
        assert "takes 8 rows, or 3 rows: batch_forms.py:" in said
        assert "--batch-sizes 5" in said
    autopar.compile(model, (torch.randn(B, B),), grid="2", machine=SLOW).save(folder)
    assert not list(folder.glob("p*_*"))


def test_solved_guards_are_what_they_say():
    draw = random.Random(0)
    relations = (sympy.Eq, sympy.Ne, sympy.Ge, sympy.Gt, sympy.Le, sympy.Lt)
    solved = 0
    for _ in range(60):
        guards = []
        for _ in range(draw.randint(1, 2)):
            relation = draw.choice(relations)
            line = relation(draw.choice([-3, -1, 1, 2]) * N + draw.randint(-20, 20), 0)
            square = relation(draw.choice([-1, 1]) * N**2 + draw.randint(-9, 9) * N + draw.randint(-30, 30), 0)
            rest = draw.choice(relations[:2])(Mod(draw.randint(1, 3) * N, draw.choice([2, 3, 4])), draw.randint(0, 2))
            guards.append(Guard(draw.choice([line, square, rest]), "a line"))
        with contextlib.suppress(Unproved):
            found = sizes(guards)
            for n in range(1, 30):
                assert found.accepts(n) == all(one.relation.subs(N, n) == sympy.true for one in guards)
            solved += 1
    assert solved > 20
