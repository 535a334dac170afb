"""Training goes on from a checkpoint as if nothing had happened, on its own grid and on others."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_parallel_module import close, parallel, size

from autopar.errors import CheckpointError
from autopar.runtime import simulate
from autopar.runtime.checkpoint import durable, folders


def optimizer_of(model):
    parameters = list(model.parameters())
    groups = [{"params": parameters[:1], "lr": 0.02}, {"params": parameters[1:]}]
    return torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.9), amsgrad=True)


def steps(model, optimizer, inputs, numbers):
    for number in numbers:
        optimizer.zero_grad()
        model(**inputs(number)).backward()
        optimizer.step()


def trained(kind, grid, folder, saved, total=6, cuts=None):
    """The whole state after steps, with a checkpoint on the way."""

    def rank():
        model, inputs = parallel(kind, grid)
        optimizer = optimizer_of(model)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        steps(model, optimizer, inputs, range(saved))
        schedule.step()
        if cuts:
            model.rebalance(cuts, optimizer)
        model.save(folder, optimizer, scheduler=schedule, extra={"epoch": 3})
        steps(model, optimizer, inputs, range(saved, total))
        return model.full_state_dict(), model.full_optimizer_state_dict(optimizer), dict(model.state_dict())

    return simulate(size(grid), rank)


def resumed(kind, grid, folder, total=6):
    def rank():
        model, inputs = parallel(kind, grid)
        optimizer = optimizer_of(model)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        found = model.load(folder, optimizer, scheduler=schedule)
        assert found.extra == {"epoch": 3}
        assert schedule.last_epoch == 1
        steps(model, optimizer, inputs, range(found.step, total))
        return model.full_state_dict(), model.full_optimizer_state_dict(optimizer), dict(model.state_dict())

    return simulate(size(grid), rank)


@pytest.mark.parametrize(("kind", "grid", "cuts"), [("mlp", "3x2", True), ("tied", "2x2", False)])
def test_the_same_grid_goes_on_bit_for_bit(tmp_path, kind, grid, cuts):
    moved = {"axis0": (0.0, 0.5, 0.75, 1.0)} if cuts else None
    before = trained(kind, grid, tmp_path, 3, cuts=moved)
    after = resumed(kind, grid, tmp_path)
    for (_, optimizer, parts), (_, other, others) in zip(before, after, strict=True):
        assert parts.keys() == others.keys()
        for name, value in parts.items():
            assert torch.equal(value, others[name]), name
        assert optimizer["param_groups"] == other["param_groups"]
        for name, state in optimizer["state"].items():
            for field, value in state.items():
                assert torch.equal(value, other["state"][name][field]), (name, field)


@pytest.mark.parametrize(("kind", "grid", "others"), [("mlp", "2x1", ["1x3", "6x1"]), ("tied", "3", ["2x2"])])
def test_other_grids_go_on(tmp_path, kind, grid, others):
    before = trained(kind, grid, tmp_path, 3)[0]
    for other in others:
        state, optimizer, _ = resumed(kind, other, tmp_path)[0]
        close(state, before[0], 1e-12)
        for name, fields in before[1]["state"].items():
            close(optimizer["state"][name], fields, 1e-12)


def test_each_element_is_written_once(tmp_path):
    trained("mlp", "3x2", tmp_path, 2)
    for path, index, faults in folders.listed(tmp_path):
        assert not faults
        assert index.step == 2
        for name, stored in index.tensors.items():
            seen = torch.zeros(stored.shape)
            for part in stored.parts:
                for block in itertools.product(*part.rows):
                    seen[tuple(slice(*runs) for runs in block)] += 1
            assert bool((seen == 1).all()), name
        assert len(list(path.glob("rank-*"))) == 6


class Killed(BaseException):
    """The job is gone."""


CHANGES = ("write_text", "write_piece", "make_folder", "rename", "remove")


@settings(max_examples=12, deadline=None)
@given(at=st.integers(0, 14), full=st.booleans())
def test_whatever_ends_a_save_the_newest_whole_checkpoint_is_found(tmp_path_factory, at, full):
    """The save of step 3 fails, or the job is killed, before or after its `at`-th change of the disk."""
    folder = tmp_path_factory.mktemp("saves")
    parameters, counts = {}, itertools.count()
    real = {name: getattr(durable, name) for name in CHANGES}

    def rank(number):
        model, _ = parallel("mlp", "1x1")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(number)
        model.save(folder, step=number, keep=2)

    for number in (1, 2):
        simulate(1, lambda number=number: rank(number))

    def failing(name):
        def change(*arguments):
            if next(counts) == at:
                if not full:
                    raise Killed
                raise OSError(28, "No space left on device")
            return real[name](*arguments)

        return change

    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            patch.setattr(durable, name, failing(name))
        try:
            simulate(1, lambda: rank(3))
            ended = True
        except (Killed, CheckpointError):
            ended = False

    def load():
        model, _ = parallel("mlp", "1x1")
        found = model.load(folder)
        parameters.update(model.full_state_dict())
        return found.step

    (step,) = simulate(1, load)
    assert step in ((3,) if ended else (2, 3))
    assert all(bool((value == step).all()) for name, value in parameters.items() if name in dict(make_names()))
    simulate(1, lambda: rank(4))
    assert next(path.name for path in folders.steps(folder)) == "step-00000004"
    assert not list(folder.glob(".writing-*"))


def make_names():
    model, _ = simulate(1, lambda: [parallel("mlp", "1x1")[0], 0])[0]
    return list(model.named_parameters())


def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path):
    trained("mlp", "2x1", tmp_path, 2)
    trained("mlp", "2x1", tmp_path, 4)
    file = tmp_path / "step-00000004" / "rank-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)

    def load():
        model, _ = parallel("mlp", "2x1")
        return model.load(tmp_path, optimizer_of(model))

    for found in simulate(2, load):
        assert found.step == 2
        assert "step-00000004: rank-00001.safetensors has changed" in found.passed[0]
    index = tmp_path / "step-00000002" / "index.json"
    index.write_text(index.read_text()[:-40])
    with pytest.raises(CheckpointError, match="no checkpoint in it is whole"):
        simulate(2, load)


def test_all_that_does_not_fit_is_said_before_anything_changes(tmp_path):
    trained("mlp", "1x1", tmp_path, 1)

    def other():
        model, _ = parallel("tied", "3")
        before = {name: value.clone() for name, value in model.state_dict().items() if torch.is_tensor(value)}
        with pytest.raises(CheckpointError, match=r"is missing(.|\n)*is not a tensor of the model"):
            model.load(tmp_path)
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())

    simulate(3, other)

    def groups():
        model, _ = parallel("mlp", "1x1")
        with pytest.raises(CheckpointError, match="same groups"):
            model.load(tmp_path, torch.optim.AdamW(model.parameters()))

    simulate(1, groups)
