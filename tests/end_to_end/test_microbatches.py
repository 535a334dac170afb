"""A batch in micro-batches: loss, gradients and state of three AdamW steps are those of the undivided sequential model, in float64.

All ranks of a grid run in this process. Batches have seven rows, so that micro-batches are uneven, and shards as well.
"""

import copy
import itertools
from pathlib import Path

import pytest
import torch
from compiling import CASES, QUICK, compiled_file, verified
from microbatched import (
    MODELS,
    ROWS,
    Guarded,
    assert_as_sequential,
    captured,
    compiled,
    on_ranks,
    tokens,
    trained,
    trained_program,
)
from torch import nn

import autopar
from autopar.errors import ConfigError, InfeasiblePlan
from autopar.ir.layout import Shard
from autopar.ir.plan_file import to_json
from autopar.runtime import simulate
from autopar.runtime.parameters.deferred_init import module_values
from autopar.runtime.profiling.profiler import Profiler
from autopar.runtime.program.from_text import program_of
from autopar.runtime.program.plan_reader import parse_description
from autopar.runtime.session.parallel_module import Parallel

MODEL_FILES = Path(__file__).parent / "models"


def assert_trains_alike(name, grid, microbatches, rows=ROWS, more=(), cuts=None):
    model, batches, one = compiled(name, grid, microbatches, rows)
    batches = [*batches, *more]
    expected = copy.deepcopy(model)
    losses = trained(expected, batches)

    def run(parallel):
        parallel.rebalance(cuts or {})
        found = trained_program(parallel, batches)
        return found, parallel.full_gradients(), parallel.full_state_dict()

    for outcome in on_ranks(one, model, run):
        assert_as_sequential(outcome, expected, losses)
    return one


PAIRS = [("tokens", grid, microbatches) for grid in ("1", "2", "2x2") for microbatches in (2, 3)]
PAIRS += [
    (name, grid, microbatches) for name in MODELS if name != "tokens" for grid, microbatches in (("2", 2), ("2x2", 3))
]
OFTEN = {("tokens", "1", 2)}  # and all on 2x2 with three
CHOICES = [pytest.param(*one, marks=() if one in OFTEN or one[1:] == ("2x2", 3) else pytest.mark.zoo) for one in PAIRS]


@pytest.mark.parametrize(("name", "grid", "microbatches"), CHOICES)
def test_three_steps_are_those_of_the_undivided_model(name, grid, microbatches):
    one = assert_trains_alike(name, grid, microbatches)
    assert one.plan.batch.division.microbatches == microbatches
    assert f"microbatches={microbatches}" in one.source


def test_a_model_whose_numbers_do_not_follow_its_rows_is_captured_with_those_of_a_micro_batch():
    one = assert_trains_alike("listed", "2", 2, rows=6)
    assert one.plan.batch.division.rows == 3
    with pytest.raises(ConfigError, match=r"changes with the number of rows|mixes the rows"):
        compiled("folded", "2", 2, rows=6)


def test_batches_of_other_sizes_have_fewer_micro_batches_where_they_have_fewer_rows():
    assert_trains_alike("tokens", "2", 3, more=[tokens(8), tokens(4), {k: v[-1:] for k, v in tokens(7).items()}])


def test_a_batch_of_which_the_model_computes_something_else_has_a_program_of_its_own():
    """Also where each of its micro-batches is one that the first program takes."""
    torch.manual_seed(0)
    model, inputs = Guarded(), {rows: torch.randn(rows, 4) for rows in (6, 4, 2, 12)}
    expected = {rows: model(x) for rows, x in inputs.items()}

    def rank():
        parallel = autopar.parallelize(copy.deepcopy(model), {"x": inputs[6]}, grid="2", microbatches=2)
        assert [rows for rows in inputs if parallel.plan.batch.accepts(rows)] == [6, 4]
        return {rows: parallel(x=x).detach() for rows, x in inputs.items()}

    for found in simulate(2, rank):
        for rows, loss in found.items():
            torch.testing.assert_close(loss, expected[rows], msg=f"{rows} rows")


def test_moved_cuts():
    assert_trains_alike("images", "2", 2, cuts={"axis0": [0.0, 0.3, 1.0]})


def test_outputs_are_those_of_the_whole_batch_and_evaluation_runs_forward_alone():
    model, (batch, *_), one = compiled("dropout", "2", 3, outputs=("logits",))
    model.eval()
    with torch.no_grad():
        expected = model(**batch)

    def run(parallel):
        parallel.eval()
        found = parallel(**batch)
        assert not found.loss.requires_grad
        with torch.no_grad():
            assert not parallel.train()(**batch).loss.requires_grad
        own = found.part("logits")
        parallel.rebalance({"axis0": [0.0, 0.25, 1.0]})  # what was returned before is read as it was cut then
        return found.loss, found.logits, own.shape

    for loss, logits, own in on_ranks(one, model, run):
        torch.testing.assert_close(loss, expected["loss"], rtol=1e-10, atol=0)
        torch.testing.assert_close(logits, expected["logits"], rtol=1e-10, atol=1e-12)
        assert own[0] in (3, 4, 7)


class Several(nn.Module):
    """Outputs of every kind: rows, rows that are folded, a sum, a mean, and what does not depend on the batch."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 6)

    def forward(self, x):
        y = self.fc(x)
        folded = y.view(-1, 2, 3).permute(1, 0, 2).reshape(-1, 3)
        loss = y.square().mean()
        return {
            "loss": loss,
            "rows": y,
            "folded": folded,
            "sum": y.sum(),
            "mean": y.mean(0),
            "weight": self.fc.weight * 2,
        }


def test_outputs_are_joined_as_they_lie_over_the_micro_batches():
    torch.manual_seed(0)
    model, x = Several().double(), torch.randn(7, 4, dtype=torch.float64)
    names = ("rows", "folded", "sum", "mean", "weight")
    one = autopar.compile(copy.deepcopy(model), {"x": x}, grid="2", microbatches=3, outputs=names, machine=QUICK)
    assert one.plan.batch.division.outputs == ("shard 0", "shard 0 as 2x_x1", "partial", "mean", "replicate")
    expected = model(x)

    def run(parallel):
        found = parallel(x=x)
        return {name: found[name] for name in names}

    for found in on_ranks(one, model, run):
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-10, atol=1e-12)


def test_ranks_may_pass_their_own_rows_of_every_micro_batch():
    model, (batch, *_), one = compiled("images", "2", 3)
    expected = model(**batch)

    def run(parallel):
        bounds, own = parallel.description.microbatches(ROWS), {}
        for name, tensor in batch.items():
            (layout,) = parallel.input_layouts[name]
            axis = parallel.grid.axes[0]
            rows = []
            for low, high in itertools.pairwise(bounds):
                cut = axis.bounds(high - low) if isinstance(layout, Shard) and layout.dim == 0 else None
                rows.append(
                    tensor[low:high] if cut is None else tensor[low:high][cut[axis.index] : cut[axis.index + 1]]
                )
            own[name] = torch.cat(rows)
            if not isinstance(layout, Shard) or layout.dim == 0:
                assert own[name].shape == parallel.input_shape(name, ROWS)
        if any(isinstance(layouts[0], Shard) and layouts[0].dim for layouts in parallel.input_layouts.values()):
            pytest.skip("the plan cuts images, not the batch")
        return parallel.forward_parts(**own)

    for loss in on_ranks(one, model, run):
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)


def test_gradients_accumulate_over_batches_are_scaled_and_clipped():
    model, batches, one = compiled("weighted", "2", 2)
    for batch in batches:
        (3.0 * model(**batch)).backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)

    def run(parallel):
        with parallel.accumulate():
            for batch in batches[:-1]:
                (3.0 * parallel(**batch)).backward()
        (3.0 * parallel(**batches[-1])).backward()
        return parallel.clip_grad_norm_(0.5), parallel.full_gradients()

    for found, gradients in on_ranks(one, model, run):
        torch.testing.assert_close(found, norm, rtol=1e-10, atol=0)
        for key, parameter in model.named_parameters():
            torch.testing.assert_close(gradients[key], parameter.grad, rtol=1e-10, atol=1e-12)
    model.zero_grad()


def test_a_loss_whose_backward_is_called_twice_is_refused_as_torch_does():
    model, (batch, *_), one = compiled("weighted", "1", 2)

    def run(parallel):
        loss = parallel(**batch)
        loss.backward()
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()

    on_ranks(one, model, run)


class Refused(nn.Module):
    """What a micro-batch cannot compute of its own rows."""

    def __init__(self, what):
        super().__init__()
        self.what, self.fc, self.norm = what, nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        y = self.fc(x)
        if self.what == "batch norm":
            y = self.norm(y)
        elif self.what == "every pair of rows":
            y = y @ y.t()
        elif self.what == "a centred batch":
            y = y - y.mean(0)
        elif self.what == "softmax over rows":
            y = y.softmax(0)
        elif self.what == "a function of the loss":
            return y.square().mean().sqrt()
        elif self.what == "a running mean":
            self.mean.mul_(0.9).add_(0.1 * y.detach().mean(0))
        elif self.what == "numbers of rows":
            y = y * torch.arange(x.shape[0]).unsqueeze(1)
        elif self.what == "a function of the rows":
            return y.sum() / (x.shape[0] + 1)
        return y.square().sum()


REFUSED = {
    "batch norm": "statistics of the whole batch",
    "every pair of rows": "every row of the batch meet every other",
    "a centred batch": "from a number of the whole batch",
    "softmax over rows": "all rows of the batch at once",
    "a function of the loss": "not linear in a number of the whole batch",
    "a running mean": "buffer mean",
    "numbers of rows": "which rows of the batch",
    "a function of the rows": "a number in it changes",
}


@pytest.mark.parametrize("what", list(REFUSED))
def test_what_needs_the_whole_batch_is_refused_by_its_line(what):
    with pytest.raises(ConfigError, match=REFUSED[what]) as refused:
        autopar.compile(Refused(what), (torch.randn(4, 4),), grid="1", microbatches=2)
    assert "test_microbatches.py" in str(refused.value)
    assert "fix: " in str(refused.value)


def test_a_batch_norm_in_evaluation_goes_by_its_running_statistics():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).double().eval()
    model[1].running_mean.normal_()

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x):
            return self.net(x).square().mean()

    whole, x = Loss().eval(), torch.randn(5, 2, 4, 4, dtype=torch.float64)
    one = autopar.compile(copy.deepcopy(whole), {"x": x}, grid="2", microbatches=2, machine=QUICK)
    loss = whole(x)
    loss.backward()

    def run(parallel):
        with pytest.raises(ConfigError, match="running statistics"):
            parallel.train()
        loss = parallel(x=x)
        loss.backward()
        return loss.detach(), parallel.full_gradients(), parallel.full_state_dict()

    for found, gradients, state in on_ranks(one, whole, run):
        torch.testing.assert_close(found, loss, rtol=1e-10, atol=0)
        for key, parameter in whole.named_parameters():
            torch.testing.assert_close(gradients[key], parameter.grad, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(state["net.1.running_mean"], model[1].running_mean)


def test_numbers_of_micro_batches_that_make_no_sense_are_refused():
    for given in (0, -1, "many", 1.5):
        with pytest.raises(ConfigError, match="microbatches"):
            captured("weighted")[2].replan(microbatches=given)
    with pytest.raises(ConfigError, match="8 micro-batches of a batch of 7 rows"):
        captured("weighted")[2].replan(microbatches=8)
    with pytest.raises(ConfigError, match="cannot be cut into 2 micro-batches of 3 rows"):
        captured("listed", 5)[2].replan(microbatches=2)


@pytest.mark.parametrize(
    ("name", "rows", "limit"), [("images", ROWS, 15_000), pytest.param("tokens", 16, 40_000, marks=pytest.mark.zoo)]
)
def test_a_memory_limit_that_no_undivided_plan_meets_is_met_by_micro_batches(name, rows, limit):
    model, batches, one = captured(name, rows)
    with pytest.raises(InfeasiblePlan, match="microbatches auto"):
        one.replan(grid="2", memory=limit)
    assert one.replan(grid="2", microbatches="auto").plan.batch.division is None
    found = one.replan(grid="2", memory=limit, microbatches="auto")
    assert found.plan.predicted.bytes <= limit
    assert found.plan.batch.division.microbatches > 1
    assert "memory limit" in found.plan.batch.division.why
    losses = trained(copy.deepcopy(model), batches)
    for each in on_ranks(found, model, lambda parallel: trained_program(parallel, batches)):
        torch.testing.assert_close(each, losses, rtol=1e-10, atol=1e-10)


def test_a_step_in_micro_batches_is_profiled_as_one_step():
    model, (batch, *_), one = compiled("tokens", "2", 2)
    description, places = parse_description(to_json(one.plan), "plan.json"), one.plan.places
    known = {name for item in description.parameters for name in (item.name, *item.aliases)}
    values = [*one.constants.items(), *(pair for pair in module_values(model) if pair[0] in known)]

    def rank():
        parallel = Parallel(program_of(one.source, "<program in micro-batches>"), description, values, torch.float64)
        profiler = Profiler(parallel, [(place.function, place.text) for place in places])
        with profiler.step():
            parallel(**batch).backward()
        return profiler.expressions, profiler.result()

    expressions, profiles = simulate(2, rank)[0]
    for profile in profiles:
        pieces = [piece for piece in profile.pieces if piece.expression is not None]
        assert {"forward", "backward"} <= {piece.kind for piece in pieces}
        for piece in pieces:  # the second micro-batch is no further round of a loop
            place = expressions[piece.expression].place
            assert piece.round < (1 if place is None else max(1, len(places[place].calls)))


def test_a_file_of_a_model_is_verified_in_micro_batches(tmp_path):
    folder = compiled_file(MODEL_FILES / "small_mlp.py", "2", tmp_path / "build", "mlp", microbatches=2)
    differences = verified(folder / "program.py", "2", CASES[1:2], 2)
    assert {one.what for one in differences} == {"losses", "gradients", "state"}
    assert [one for one in differences if not one.relative <= one.tolerance] == []


def test_plain_attention_stays_plain():
    _, _, one = compiled("tokens", "2", 2)
    _, _, dropped = compiled("dropout", "2", 2)
    assert "F.scaled_dot_product_attention" in one.source
    assert '"batch": 0' not in one.source
    assert '"batch": 0' in dropped.source
