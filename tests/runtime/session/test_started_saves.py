"""A checkpoint is written while training goes on: what it holds is of the step at which it began."""

import os
import threading
from dataclasses import replace

import pytest
import torch
from test_checkpoints import optimizer_of, steps
from test_parallel_module import parallel

from autopar.errors import CheckpointError
from autopar.runtime import simulate
from autopar.runtime.checkpoint import durable, folders
from autopar.runtime.program.plan_reader import RankMemory


def model_of(grid="2x1"):
    model, inputs = parallel("mlp", grid)
    return model, optimizer_of(model), inputs


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_it_holds_the_step_at_which_it_began_and_has_its_name_as_training_goes_on(tmp_path, monkeypatch):
    written, write = threading.Event(), durable.write_piece

    def late(*given):
        assert written.wait(60)
        write(*given)

    monkeypatch.setattr(durable, "write_piece", late)

    def rank():
        model, optimizer, inputs = model_of()
        steps(model, optimizer, inputs, range(2))
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        before = {name: value.clone() for name, value in model.full_state_dict().items()}
        started = model.start_save(tmp_path, optimizer, scheduler=schedule)
        steps(model, optimizer, inputs, range(2, 4))
        schedule.step()
        assert started.reason is None
        assert not started.ended
        assert names(tmp_path) == [".writing-00000002"]
        written.set()
        while not started.ended:  # by calls alone
            steps(model, optimizer, inputs, range(4, 5))
        assert started.wait() == tmp_path / "step-00000002"
        found = model.load(tmp_path, optimizer, scheduler=schedule)
        assert (found.step, schedule.last_epoch) == (2, 0)
        assert all(torch.equal(value, before[name]) for name, value in model.full_state_dict().items())
        assert all(state["step"] == 2 for state in optimizer.state.values())
        again = model.start_save(tmp_path, optimizer, step=3)
        assert model.load(tmp_path).step == 3  # which waits
        assert again.ended

    simulate(2, rank)


def test_what_went_wrong_on_one_rank_is_raised_on_all_by_the_next_save_and_the_older_one_stays(tmp_path, monkeypatch):
    def rank():
        model, optimizer, inputs = model_of()
        steps(model, optimizer, inputs, range(1))
        model.save(tmp_path, optimizer, step=1)
        barrier = model.grid.comm.barrier
        if model.grid.rank == 0:
            write = os.write
            monkeypatch.setattr(os, "write", lambda *given: full(write, *given))
        barrier()
        model.start_save(tmp_path, optimizer, step=2, keep=1)
        steps(model, optimizer, inputs, range(1, 3))
        with pytest.raises(CheckpointError, match=r"cannot be written: No space left on device"):
            model.save(tmp_path, optimizer, step=3)
        barrier()
        if model.grid.rank == 0:
            monkeypatch.undo()
        barrier()
        assert model.load(tmp_path, optimizer).step == 1
        assert model.save(tmp_path, optimizer, step=3, keep=1).name == "step-00000003"

    def full(write, handle, piece):
        raise OSError(28, "No space left on device")

    simulate(2, rank)
    assert names(tmp_path) == ["step-00000003"]
    assert [faults for _, _, faults in folders.listed(tmp_path)] == [[]]


@pytest.mark.parametrize(("memory", "reason"), [(10_000, None), (1, "rank 0 holds"), (None, "are free")])
def test_without_room_for_copies_it_is_written_at_once(tmp_path, monkeypatch, memory, reason):
    if memory is None:
        monkeypatch.setattr("autopar.runtime.checkpoint.started._available", lambda: 0)

    def rank():
        model, optimizer, _ = model_of()
        model.description = replace(model.description, memory=memory, machine=RankMemory())
        started = model.start_save(tmp_path, optimizer, step=1)
        assert (started.reason is None) == (reason is None), started.reason
        assert started.ended == (reason is not None)
        assert reason is None or reason in started.reason
        return started.wait()

    assert simulate(2, rank) == [tmp_path / "step-00000001"] * 2
