"""A model is captured in the mode that training needs, starts in its own, and goes where its own `train()` would go."""

import copy

import pytest
import torch
import torch.nn.functional as F
from capture_oracle import capture
from shared_captures import these_rows
from torch import nn

import autopar
from autopar.errors import ConfigError
from autopar.runtime import simulate
from autopar.runtime.functional.model_random import ProgramRandom
from autopar.runtime.grid.counter_rng import drawing

INPUTS = (torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0, 1, 2]))


class Net(nn.Module):
    """With all that a mode changes; `ways` are what a user's own model does besides."""

    def __init__(self, *ways):
        super().__init__()
        self.wide, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.norm, self.drop = nn.BatchNorm1d(6), nn.Dropout(0.4)
        self.ways, self.merged = ways, False

    def train(self, mode=True):
        super().train(mode)
        if "keeps" in self.ways:
            self.norm.eval()
        if "merges" in self.ways and self.merged == mode:
            self.merged = not mode
            self.wide.weight.data.add_(1.0 if self.merged else -1.0)
        return self

    def forward(self, x, y):
        loss = F.cross_entropy(
            self.head((nn.Identity() if "steady" in self.ways else self.drop)(self.norm(self.wide(x)))), y
        )
        return loss + self.wide.weight.square().mean() if "branches" in self.ways and self.training else loss


def asleep(net, *names):
    for name in names:
        net.get_submodule(name).eval()
    return net


# how the model comes; what train() and eval() of the program are refused for; whether batch norm is captured in training
CASES = {
    "training": (Net, "", "", True),
    "evaluation": (lambda: Net().eval(), "", "", True),
    "norm asleep": (lambda: asleep(Net(), "norm"), "train() would change norm", "", False),
    "norm asleep alone": (lambda: asleep(Net("steady"), "norm"), "train() would change norm", "", False),
    "norm kept": (lambda: Net("keeps").train(), "", "", False),
    "norm kept, evaluation": (lambda: Net("keeps").eval(), "", "", False),
    "linear asleep": (lambda: asleep(Net(), "wide"), "", "", True),
    "dropout awake": (
        lambda: asleep(Net(), "", "wide", "norm"),
        "train() would change wide",
        "drops",
        False,
    ),
    "branches": (lambda: Net("branches"), "", "square", True),
    "branches, evaluation": (lambda: Net("branches").eval(), "square", "", False),
    "merges": (lambda: Net("merges"), "", "", True),
    "merges, evaluation": (lambda: Net("merges").eval(), "also changes merged", "", False),
}


def made(case):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = CASES[case][0]()
        if case == "dropout awake":
            net.eval().drop.train()
    return net


RUN = ("evaluation", "norm asleep", "norm kept, evaluation", "dropout awake", "branches, evaluation")


@pytest.mark.parametrize("case", [case for case in CASES if case not in RUN])
def test_the_mode_of_the_graph_and_what_is_refused(case):
    _, training, evaluation, live = CASES[case]
    net = made(case)
    state, flags = copy.deepcopy(net.state_dict()), [part.training for part in net.modules()]
    one = capture(net, INPUTS, name="net")
    assert ("autopar.batch_norm" in [node.target for node in one.graph.nodes]) == live
    assert bool(one.training) == bool(training)
    assert training in one.training
    assert bool(one.evaluation) == bool(evaluation)
    assert evaluation in one.evaluation
    torch.testing.assert_close(net.state_dict(), state, rtol=0, atol=0)
    assert [part.training for part in net.modules()] == flags


@pytest.mark.parametrize("case", RUN)
def test_the_program_computes_what_the_model_computes_as_it_comes_and_wherever_it_may_go(case):
    _, training, evaluation, _ = CASES[case]
    net = made(case).double()
    inputs = (INPUTS[0].double(), INPUTS[1])
    steps = [None, *([] if evaluation else [False]), *([] if training else [True, False, True])]
    expected, drawn = [], 0
    for mode in steps:
        if mode is not None:
            net.train(mode)
        drawn += any(part.training for part in net.modules())
        net.zero_grad()
        with drawing(0, drawn), ProgramRandom():
            loss = net(*inputs)
        loss.backward()
        expected.append((loss.detach(), {name: one.grad.clone() for name, one in net.named_parameters()}))
    state = net.state_dict()

    def rank():
        parallel = autopar.parallelize(source, inputs, grid="2")
        assert training in parallel.plan.training
        assert evaluation in parallel.plan.evaluation
        if training:
            with pytest.raises(ConfigError, match=training.replace("(", r"\(").replace(")", r"\)")):
                parallel.train()
        found = []
        for mode in steps:
            if mode is not None:
                parallel.train(mode)
            parallel.zero_grad()
            loss = parallel(*inputs)
            loss.backward()
            found.append((loss.detach(), parallel.full_gradients()))
        return found, parallel.full_state_dict()

    source = made(case).double()
    with these_rows():
        ranks = simulate(2, rank)
    for found, held in ranks:
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(held, dict(state), rtol=1e-10, atol=1e-12)
