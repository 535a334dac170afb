"""`autopar.parallelize` on simulated ranks: rank 0 compiles, and what it has and what it meets is everybody's."""

import copy
import inspect
import random
from unittest import mock

import pytest
import torch
from shared_captures import of_these_rows, these_rows
from torch import nn

import autopar
from autopar.errors import AutoparError, CheckpointError, CommError, ConfigError
from autopar.runtime import default_world, simulate
from autopar.runtime.diagnostics.collective_errors import is_alike, together, told_by

INPUTS = (torch.arange(12.0).reshape(4, 3) / 12,)
ANY = [KeyError("lost"), MemoryError(), KeyboardInterrupt(), SystemExit(3), AutoparError("of no kind")]


class Net(nn.Module):
    """Buffers of all kinds, and a constant that lies in an attribute: all of them other ones in every module."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("shift", torch.randn(4), persistent=False)
        self.scale = torch.rand(4)
        nn.init.uniform_(self.norm.running_mean)

    def forward(self, x):
        return (self.norm(self.wide(x) + self.shift) * self.scale).square().mean()


def test_it_has_all_options_of_compile():
    compile, parallelize = (inspect.signature(one).parameters for one in (autopar.compile, autopar.parallelize))
    known = {name: one for name, one in compile.items() if name not in ("source", "ranks")}  # the job has its own
    assert {name: one.default for name, one in parallelize.items() if name not in ("seed", "balance")} == {
        name: one.default for name, one in known.items()
    }
    with mock.patch("autopar.compiler.compile", side_effect=ConfigError("seen")) as compiled:
        given = {name: object() for name in known if name not in ("model", "example_inputs", "grid")}
        with pytest.raises(ConfigError, match="seen"):
            simulate(1, lambda: autopar.parallelize(Net(), INPUTS, grid="1", **given))
    assert {name: compiled.call_args.kwargs[name] for name in given} == given


def test_a_live_module_starts_from_rank_0s_values():
    modules = [Net() for _ in range(4)]
    first = modules[0](*INPUTS)  # before which nothing is changed in place
    modules[0].norm.reset_running_stats()
    start = {name: one.clone() for name, one in modules[0].state_dict().items()}

    def rank():
        parallel = autopar.parallelize(modules[default_world().rank], INPUTS, grid="2x2", pin=["wide: n@axis1"])
        state = parallel.full_state_dict()
        return parallel(*INPUTS).detach(), state, {name: one.shape for name, one in parallel.named_parameters()}

    with these_rows():
        found = simulate(4, rank)
    for loss, state, shapes in found:
        torch.testing.assert_close(loss, first.detach())
        torch.testing.assert_close(state, start, rtol=0, atol=0)
        assert shapes["wide.weight"] == (2, 3)


def test_whatever_rank_0_meets_in_the_compilation_all_ranks_raise():
    def rank():
        raised, comm = [], default_world()
        for error in ANY:
            kind = type(error) if comm.rank == 0 or isinstance(error, AutoparError) else CommError
            with pytest.raises(kind) as one:
                autopar.parallelize(Net(), INPUTS, grid="3")
            assert comm.gather_objects(comm.rank) == [0, 1, 2]  # nobody is left behind in a call
            raised.append((one.value is error, is_alike(one.value), told_by(one.value), str(one.value)))
        return raised

    with mock.patch("autopar.compiler.compile", side_effect=ANY):
        first, *others = simulate(3, rank)
    assert [one[0] for one in first] == [True] * len(ANY)
    assert others[0] == others[1]
    for error, (_, alike, teller, text) in zip(ANY, others[0], strict=True):
        assert (alike, teller) == ((True, None) if isinstance(error, AutoparError) else (False, 0))
        assert str(error) in text
        assert type(error).__name__ in text or alike


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("again"), SystemExit()])
def test_a_rank_that_leaves_a_common_block_leaves_no_other_waiting(error):
    def rank():
        comm = default_world()
        with pytest.raises(BaseException) as one, together(comm, "reading"):  # noqa: PT011, PT012 (whatever it is)
            if comm.rank == 1:
                raise error
        return one.value

    others, left = simulate(2, rank)
    assert left is error
    assert isinstance(others, CommError)
    assert told_by(others) == (1 if str(error) not in ("", "None") else None)
    assert f"rank 1: {type(error).__name__}: {error}" in str(others)


def test_a_function_that_makes_another_model_on_every_rank_is_refused_by_name():
    def model():
        net = Net()
        with torch.no_grad():
            net.wide.weight.fill_(random.random())  # Python's generator, which nobody seeds
        return net

    def rank():
        with pytest.raises(CheckpointError, match=r"(?s)differ from rank to rank.*- wide\.weight\n  fix") as one:
            autopar.parallelize(model, INPUTS, grid="2")
        assert is_alike(one.value)

    with these_rows():
        simulate(2, rank)


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.drop, self.head = nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1)

    def forward(self, x):
        return self.head(self.drop(self.wide(x).relu())).square().mean()


def test_a_run_that_is_resumed_draws_what_an_uninterrupted_one_draws():
    net = Dropping().double()
    inputs = (INPUTS[0].double(),)

    def trained(parallel, optimizer, steps):
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = parallel(*inputs)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    def fresh(seed=3):
        parallel = autopar.parallelize(net, inputs, grid="2", seed=seed, pin=["wide: n@axis0"])
        return parallel, torch.optim.SGD(parallel.parameters(), lr=0.1, momentum=0.9)

    def rank():
        parallel, optimizer = fresh()
        losses = trained(parallel, optimizer, 2)
        state, whole = parallel.state_dict(), parallel.full_state_dict()
        held, whole_held = optimizer.state_dict(), parallel.full_optimizer_state_dict(optimizer)
        state, held = copy.deepcopy(state), copy.deepcopy(held)
        losses += trained(parallel, optimizer, 2)
        Dropping().load_state_dict(whole)  # has no other keys than the model's own
        again, optimizer = fresh(0)
        again.load_state_dict(state)
        optimizer.load_state_dict(held)
        assert trained(again, optimizer, 2) == losses[2:]
        again, optimizer = fresh(0)
        again.load_full_state_dict(whole)
        again.load_full_optimizer_state_dict(optimizer, whole_held)
        assert trained(again, optimizer, 2) == losses[2:]
        again, optimizer = fresh()
        again.load_full_state_dict(whole)
        assert trained(again, optimizer, 1)[0] != losses[2]  # other draws, so that the above says something
        return losses

    with mock.patch("autopar.capture.capture", return_value=of_these_rows(net, inputs, name="dropping")):
        assert len(set(simulate(2, rank)[0])) == 4
