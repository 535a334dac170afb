"""What a checkpoint holds comes back as it was, whatever the optimizer, schedule and grid; and what would not is refused."""

import os

import pytest
import torch
from test_parallel_module import parallel, size
from torch.optim.lr_scheduler import MultiStepLR

from autopar.errors import CheckpointError, ConfigError
from autopar.runtime import simulate
from autopar.runtime.checkpoint import folders


def adam(parameters):
    return torch.optim.AdamW(parameters, lr=0.01)


def updated(model, make=adam, order=list):
    """An optimizer that has made a step with gradients of every parameter, its groups in an order of their own."""
    optimizer = make(order(model.parameters()))
    for number, one in enumerate(model.parameters()):
        if one.requires_grad:
            one.grad = torch.full_like(one, 0.1 * (number + 1))
    optimizer.step()
    return optimizer


def saved(folder, grid="1x1", make=adam, order=list, **beside):
    def rank():
        model, _ = parallel("mlp", grid)
        optimizer = updated(model, make, order)
        model.save(folder, optimizer, step=1, **{key: one(optimizer) for key, one in beside.items()})
        return model.full_state_dict()

    return simulate(size(grid), rank)[0]


def refused(folder, match, make=adam, **options):
    """`load` raises, and has changed nothing."""

    def rank():
        model, _ = parallel("mlp", "1x1", **{key: one for key, one in options.items() if key == "dtype"})
        optimizer = make(list(model.parameters()))
        before = {name: value.clone() for name, value in model.full_state_dict().items()}
        beside = {key: one(optimizer) for key, one in options.items() if key != "dtype"}
        with pytest.raises(CheckpointError, match=match):
            model.load(folder, optimizer, **beside)
        assert not optimizer.state
        assert all(torch.equal(value, before[name]) for name, value in model.full_state_dict().items())

    simulate(1, rank)


def test_a_group_may_have_any_order(tmp_path):
    def backwards(parameters):
        return list(parameters)[::-1]

    saved(tmp_path, order=backwards)

    def rank():
        model, _ = parallel("mlp", "1x1")
        optimizer = adam(backwards(model.parameters()))
        model.load(tmp_path, optimizer)
        return len(optimizer.state)

    assert simulate(1, rank) == [4]


def test_a_schedule_keeps_the_numbers_of_its_milestones(tmp_path):
    def schedule(optimizer):
        return MultiStepLR(optimizer, [2, 4])

    saved(tmp_path, scheduler=schedule)

    def rank():
        model, _ = parallel("mlp", "1x1")
        optimizer = adam(list(model.parameters()))
        again = schedule(optimizer)
        assert model.load(tmp_path).left == ()
        assert model.load(tmp_path, optimizer).left == ("scheduler",)
        assert model.load(tmp_path, optimizer, scheduler=again).left == ()
        rates = []
        for _ in range(5):
            optimizer.step()
            again.step()
            rates.append(optimizer.param_groups[0]["lr"])
        return rates

    assert simulate(1, rank) == [pytest.approx([0.01, 0.001, 0.001, 0.0001, 0.0001])]


def test_extra_comes_back_as_it_was(tmp_path):
    extra = {3: "epoch", "shuffle": (1, 2), "best": float("inf"), "seen": {"tuple": [1]}}

    def rank():
        model, _ = parallel("mlp", "1x1")
        model.save(tmp_path, extra=extra)
        return model.load(tmp_path).extra

    assert simulate(1, rank) == [extra]


def test_an_optimizer_of_another_kind_is_refused(tmp_path):
    saved(tmp_path, make=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    refused(tmp_path, r"betas(.|\n)*eps")


def test_a_schedule_that_was_not_saved_is_refused(tmp_path):
    saved(tmp_path)
    refused(tmp_path, "scheduler", scheduler=lambda optimizer: MultiStepLR(optimizer, [2]))


def test_another_precision_is_refused(tmp_path):
    saved(tmp_path)
    refused(tmp_path, r"layers.0.weight is float64, the model's is float32", dtype=torch.float32)


class OneNumber(torch.optim.SGD):
    """Keeps a tensor of one number for a parameter, with dims: of a part, it could be anything."""

    def step(self):
        for group in self.param_groups:
            for one in group["params"]:
                self.state[one]["largest"] = one.detach().abs().max().reshape(1, 1)


def test_state_that_is_no_number_of_all_ranks_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"largest of layers\.0\.weight"):
        saved(tmp_path, "1x2", make=lambda parameters: OneNumber(parameters, lr=0.1))


def test_what_is_kept_are_whole_ones_and_a_listing_changes_nothing(tmp_path):
    def rank():
        model, _ = parallel("mlp", "1x1")
        for step in (1, 2, 3):
            model.save(tmp_path, step=step)
        (tmp_path / "step-00000003" / "rank-00000.safetensors").write_bytes(b"")
        model.save(tmp_path, step=4, keep=2)
        with pytest.raises(ConfigError, match="keep"):
            model.save(tmp_path, step=5, keep=0)

    simulate(1, rank)
    assert [path.name for path in folders.steps(tmp_path)] == ["step-00000004", "step-00000003", "step-00000002"]
    (tmp_path / "step-00000004").rename(tmp_path / ".replaced-00000004")  # as between the two renames of a save
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [bool(faults) for _, _, faults in folders.listed(tmp_path)] == [True, False]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert simulate(1, lambda: parallel("mlp", "1x1")[0].load(tmp_path).step) == [4]


def test_a_full_disk_is_an_error_of_the_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(CheckpointError, match=r"cannot be written(.|\n)*No space left"):
        saved(tmp_path)
