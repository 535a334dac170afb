"""What a session of a divided program offers beside its steps, against the sequential model in float64."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import divided_programs as divided
import pytest
import torch

import autopar
from autopar.errors import CheckpointError, ConfigError, PlanError
from autopar.ir.grid import GridShape
from autopar.ir.pipeline.measured_step import FILE, load_step
from autopar.ir.pipeline.schedule import parse_schedule
from autopar.runtime import simulate
from autopar.runtime.parameters import sources
from autopar.runtime.parameters.deferred_init import module_values
from autopar.runtime.parameters.distribute import from_rank0
from autopar.runtime.profiling.action_times import ActionTimes
from autopar.runtime.profiling.profiler import Profiler
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.transport.world import default_world

AT = (0, 1, 0, 1)
GRID = "stage:2x2"
TEXT = divided.named("interleaved", AT, 2)
EXACT = {"rtol": 1e-10, "atol": 1e-12}


def on_ranks(use, grid=GRID, at=AT, text=TEXT):
    """What `use(parallel)` returns on every rank."""
    model = divided.ladder()
    return simulate(GridShape.parse(grid).size, lambda: use(divided.parallel(grid, at, text, model)))


def adam(model):
    """Two groups, as people have them: with and without weight decay."""
    named = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    thin = [one for _, one in named if one.dim() < 2]
    return torch.optim.AdamW([{"params": [one for _, one in named if one.dim() > 1]}, {"params": thin, "lr": 0.02}])


def step(model, optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def test_every_rank_has_its_part_of_what_rank_0_has(tmp_path):
    model = divided.ladder()
    values = dict(module_values(model))
    sources.save(values, tmp_path / "values.safetensors")

    def rank():
        made = divided.program("stage:3x2", (0, 2, 2, 0), divided.named("gpipe", (0, 2, 2, 0), 1))
        world = default_world()
        mine = values if world.rank == 0 else {}
        for source in (from_rank0(mine, world), sources.from_file(tmp_path / "values.safetensors")):
            parallel = Parallel(made, divided.description("stage:3x2", 1), source, dtype=torch.float64)
            state = parallel.full_state_dict()
            assert {name: one for name, one in state.items() if not torch.equal(one, values[name])} == {}
            parallel.load_full_state_dict({name: one + 1 for name, one in state.items()})
            assert torch.equal(parallel.full_state_dict()["mix"], values["mix"] + 1)
        return sorted(name for name, _ in parallel.named_parameters())

    held = simulate(6, rank)
    assert held[0] == held[1]
    assert "conv.weight" not in held[0]
    assert held[2] == held[3] == ["nothing_trained_here"]
    assert held[4] == held[5]
    assert "mix" in held[4]


def test_a_live_model_is_divided_with_rank_0s_values():
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).double()
    x = torch.randn(6, 8, generator=generator, dtype=torch.float64)

    class Loss(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x).square().mean()

    whole = Loss(copy.deepcopy(model))
    whole(x).backward()
    expected = {name: one.grad for name, one in whole.named_parameters()}
    models = [
        Loss(model),
        Loss(torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).double()),
    ]

    def rank():
        parallel = autopar.parallelize(models[default_world().rank], {"x": x}, grid="stage:2", machine="cpu")
        parallel(x=x).backward()
        return parallel.full_gradients()

    for found in simulate(2, rank):
        torch.testing.assert_close(found, expected, **EXACT)


def test_an_optimizers_state_is_put_together_and_goes_on_anywhere():
    model = divided.ladder()
    whole = adam(model)
    for number in range(2):
        step(model, whole, divided.sequential(model, divided.batch(seed=number), step=number + 1)[0])

    def first(parallel):
        optimizer = adam(parallel)
        for number in range(2):
            step(parallel, optimizer, parallel(**divided.batch(seed=number)).loss)
        return parallel.full_optimizer_state_dict(optimizer), parallel.full_state_dict()

    states = on_ranks(first)
    names = {name: one for name, one in model.named_parameters()}
    for saved, _ in states:
        assert [len(group["params"]) for group in saved["param_groups"]] == [
            len(group["params"]) for group in whole.param_groups
        ]
        for name, kept in saved["state"].items():
            torch.testing.assert_close(kept["exp_avg_sq"], whole.state[names[name]]["exp_avg_sq"], **EXACT)
            assert float(kept["step"]) == 2
        assert {name for name, one in names.items() if one in whole.state} == saved["state"].keys()
    expected = step(model, whole, divided.sequential(model, divided.batch(seed=2), step=3)[0])
    after = {name: one.detach().clone() for name, one in model.state_dict().items()}

    def second(parallel):
        optimizer = adam(parallel)
        parallel.load_full_state_dict(states[0][1])
        parallel.load_full_optimizer_state_dict(optimizer, states[0][0])
        loss = step(parallel, optimizer, parallel(**divided.batch(seed=2)).loss)
        return loss, parallel.full_state_dict()

    for loss, state in on_ranks(second, "stage:3", (2, 1, 0, 0), divided.named("1f1b", (2, 1, 0, 0), 3)):
        torch.testing.assert_close(loss, expected, **EXACT)
        torch.testing.assert_close(state, after, **EXACT)


def test_a_tied_parameter_counts_once_in_the_norm_which_all_ranks_have_alike():
    model = divided.ladder()
    divided.sequential(model, divided.batch())[0].backward()
    expected = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}

    def use(parallel):
        parallel(**divided.batch()).loss.backward()
        return parallel.clip_grad_norm_(0.1), parallel.full_gradients()

    for norm, found in on_ranks(use):
        assert norm.dtype == torch.float64
        torch.testing.assert_close(norm, expected, **EXACT)
        torch.testing.assert_close(found, gradients, rtol=1e-9, atol=1e-12)


def test_gradients_are_handed_over_in_backward_and_add_up():
    model = divided.ladder()
    for number in range(3):
        (divided.sequential(model, divided.batch(seed=number))[0] / 3).backward()
    expected = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}

    def use(parallel):
        seen = []
        first = next(one for one in parallel.parameters() if one.requires_grad)
        first.register_post_accumulate_grad_hook(lambda one: seen.append(one.grad is not None))
        with parallel.accumulate():
            losses = [parallel(**divided.batch(seed=number)).loss for number in range(2)]
            parallel.zero_grad()  # before any backward: the gradients of a step are not there yet
            assert all(one.grad is None for one in parallel.parameters())
            for loss in losses:
                (loss / 3).backward()
        (parallel(**divided.batch(seed=2)).loss / 3).backward()
        assert seen == [True] * 3
        found = parallel.full_gradients()
        with pytest.raises(RuntimeError, match="second time"):
            losses[0].backward()
        return found

    for found in on_ranks(use):
        torch.testing.assert_close(found, expected, **EXACT)


def test_every_rank_may_pass_its_own_parts():
    expected = divided.sequential(divided.ladder(), divided.batch(5))[0].detach()

    def use(parallel):
        index, whole = parallel.grid.axes[0].index, divided.batch(5)
        rows = [2, 4] if index else [0, 1, 3]
        return parallel.forward_parts(**{name: one[rows] for name, one in whole.items()}).loss.detach()

    # micro-batches of rows 0-2 and 3-4; of each the first axis's ranks have 2 and 1, then 1 and 1
    for found in on_ranks(use):
        torch.testing.assert_close(found, expected, **EXACT)


def test_without_gradients_only_forward_runs():
    model = divided.ladder()
    expected = divided.sequential(model, divided.batch())

    def use(parallel):
        with parallel.recording_actions() as actions:
            parallel.eval()
            evaluated = parallel(**divided.batch())
            parallel.train()
            with torch.no_grad():
                silent = parallel(**divided.batch())
        kinds = {one.action.kind for one in actions}
        for segment, seconds in enumerate(parallel.segment_seconds):
            own = [one for one in actions if one.action.segment == segment]
            assert abs(sum(one.end - one.start - one.waited for one in own) - seconds) < 1e-9
        assert all(one.start <= one.end and 0 <= one.waited <= one.end - one.start for one in actions)
        assert not evaluated.loss.requires_grad
        assert not silent.loss.requires_grad
        return kinds, evaluated.loss, silent.loss, evaluated["logits"], silent.part("logits")

    for kinds, evaluated, silent, logits, part in on_ranks(use):
        assert kinds == {"F"}
        for loss in (evaluated, silent):
            torch.testing.assert_close(loss, expected[0].detach(), **EXACT)
        torch.testing.assert_close(logits, expected[1].detach(), **EXACT)
        assert part.shape[0] in (2, 4)


def test_gradients_of_a_scaled_loss_are_computed_scaled():
    def use(parallel):
        parallel(**divided.batch()).loss.backward()
        plain = parallel.full_gradients()
        parallel.zero_grad()
        scaler = parallel.grad_scaler(init_scale=2.0**20)
        seeds = []
        parallel._pipelined[0].executor.run = seen(parallel._pipelined[0].executor.run, seeds)
        scaler.scale(parallel(**divided.batch()).loss).backward()
        assert seeds == [2.0**20]
        scaled = parallel.full_gradients()
        assert {name for name, one in plain.items() if not torch.equal(one * 2.0**20, scaled[name])} == set()
        optimizer = torch.optim.SGD(parallel.parameters(), 0.1)
        before = [one.detach().clone() for one in parallel.parameters() if one.requires_grad]
        next(one for one in parallel.parameters() if one.grad is not None).grad.view(-1)[0] = (
            float("inf") if parallel.grid.rank == 0 else 0.0
        )
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == 2.0**19
        after = [one for one in parallel.parameters() if one.requires_grad]
        return all(map(torch.equal, before, after))

    def seen(run, seeds):
        def spy(batches, namespace, trained, seed, *, trains):
            seeds.append(seed)
            return run(batches, namespace, trained, seed, trains=trains)

        return spy

    assert on_ranks(use) == [True] * 4


def test_the_axes_of_a_position_can_be_cut_elsewhere_between_steps():
    model = divided.ladder()
    optimizer = adam(model)
    expected = [
        step(model, optimizer, divided.sequential(model, divided.batch(seed=number), step=number + 1)[0])
        for number in range(2)
    ]

    def use(parallel):
        optimizer = adam(parallel)
        losses = [step(parallel, optimizer, parallel(**divided.batch()).loss)]
        parallel.rebalance({"axis0": (0.0, 0.3, 1.0)}, optimizer)
        return [*losses, step(parallel, optimizer, parallel(**divided.batch(seed=1)).loss)]

    for found in on_ranks(use):
        torch.testing.assert_close(found, expected, **EXACT)


def test_what_divided_programs_do_not_do_yet_is_said():
    with pytest.raises(ConfigError, match=r"profile.*divided"):
        on_ranks(Profiler)
    with pytest.raises(ConfigError, match=r" is torch.float32"):
        on_ranks(lambda parallel: parallel.float()(**divided.batch()))

    def apart(parallel):
        held = [one for one in parallel.parameters() if one.requires_grad]
        groups = [{"params": held}] if parallel.grid.place.index else [{"params": held[:1]}, {"params": held[1:]}]
        parallel.full_optimizer_state_dict(torch.optim.SGD(groups))

    with pytest.raises(CheckpointError, match="position 0: 2 groups"):
        on_ranks(apart)


def test_a_position_without_trained_parameters_has_optimizers_and_scalers():
    model = divided.ladder()
    for name, one in model.named_parameters():
        one.requires_grad_(name.startswith(("norm", "embed")))
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad])
    expected = step(model, optimizer, divided.sequential(model, divided.batch())[0])
    after = {name: one.detach().clone() for name, one in model.state_dict().items()}
    at = (0, 1, 1, 0)

    def rank():
        made = divided.program("stage:2", at, divided.named("gpipe", at, 2))
        plan = divided.description("stage:2", 2)
        frozen = tuple(
            replace(item, kind="parameter" if item.name.startswith(("norm", "embed")) else "frozen")
            for item in plan.parameters
        )
        parallel = Parallel(made, replace(plan, parameters=frozen), module_values(divided.ladder()), torch.float64)
        optimizer = torch.optim.AdamW([one for one in parallel.parameters() if one.requires_grad])
        scaler = parallel.grad_scaler(init_scale=8.0)
        loss = parallel(**divided.batch()).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        parallel.clip_grad_norm_(1e6)
        scaler.step(optimizer)
        scaler.update()
        saved = parallel.full_optimizer_state_dict(optimizer)
        parallel.load_full_optimizer_state_dict(optimizer, saved)
        return loss.detach(), parallel.full_state_dict(), saved["param_groups"][0]["params"]

    for loss, state, names in simulate(2, rank):
        torch.testing.assert_close(loss, expected, **EXACT)
        torch.testing.assert_close(state, after, **EXACT)
        assert names == ["embed.weight", "norm.weight", "norm.bias"]


def test_a_profiled_run_writes_what_each_rank_did_when(tmp_path):
    job = SimpleNamespace(folder=tmp_path)
    (tmp_path / "program.py").write_text("the program")
    (tmp_path / "plan.json").write_text('{"placement": {"bytes": [1024, 2048]}}')

    def use(parallel):
        times = ActionTimes(job, parallel, 4)
        for number in range(1, 5):
            with times.step(number):
                parallel(**divided.batch()).loss.backward()
        return times.write()

    lines = on_ranks(use)[0]
    assert [line.split(",")[0].rsplit(" ", 2)[0] for line in lines[:2]] == ["position 0 forward", "position 1 forward"]
    step = load_step(tmp_path, "the program", 2)
    assert [row.action for row in step.ranks[3].actions] == [str(action) for action in parse_schedule(TEXT)[1]]
    assert all(0 <= row.start <= row.end for rank in step.ranks for row in rank.actions)
    assert step.slowest(1).position == 1
    for text, positions, said in (("another", 2, "of another program"), ("the program", 3, "another release or grid")):
        with pytest.raises(ConfigError, match=said):
            load_step(tmp_path, text, positions)
    (tmp_path / FILE).write_text((tmp_path / FILE).read_text().replace("F0.0", "X0"))
    with pytest.raises(PlanError, match="X0"):
        load_step(tmp_path, "the program", 2)
