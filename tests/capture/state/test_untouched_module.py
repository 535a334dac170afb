"""A live model, the state of random numbers and torch's settings are the same before and after, whatever is done or raised."""

import random
import warnings

import live
import numpy as np
import pytest
import torch
from compiling import QUICK
from torch import nn

import autopar
from autopar.capture.state.untouched_module import untouched
from autopar.errors import AutoparError
from autopar.runtime import simulate


def inputs():
    return {"x": torch.arange(30.0, dtype=torch.float64).view(5, 6).sin()}


def test_a_live_model_is_the_same_after_whatever_is_done_with_it():
    model, given = live.odd(), inputs()
    before = live.picture(model)
    done = {
        "compile": lambda: compiled.append(autopar.compile(model, given, grid="2", machine=QUICK)),
        "replan": lambda: compiled[0].replan(grid="2x2"),
        "explain": lambda: compiled[0].explain("*tanh*"),
        "parallelize": lambda: simulate(2, lambda: autopar.parallelize(model, given, grid="2")),
    }
    compiled = []
    for name, work in done.items():
        work()
        assert (name, live.changes(before, live.picture(model))) == (name, [])


class Fails(live.Odd):
    """Changes what it can before it fails."""

    def forward(self, x):
        self.calls = 1
        self.eval()
        self.first.weight.requires_grad_(False)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        warnings.simplefilter("error")
        random.random(), np.random.random(), torch.rand(1)
        super().forward(x)
        raise ZeroDivisionError("mine")


def test_a_live_model_is_the_same_where_compiling_raises():
    model, given = live.odd(), inputs()
    stages = {
        "pin": {"pin": ["first: nonsense@nowhere"]},
        "no such pin": {"pin": ["nowhere: n@grid0"]},
        "loss": {"loss": "nowhere"},
        "memory": {"memory": "1KiB"},
        "forward": {},
    }
    with torch.random.fork_rng():
        failing = Fails().double()
    for stage, options in stages.items():
        one = failing if stage == "forward" else model
        before = live.picture(one)
        with pytest.raises(AutoparError):
            autopar.compile(one, given, grid="2", machine=QUICK, **options)
        assert (stage, live.changes(before, live.picture(one))) == (stage, [])


class Held:
    def __init__(self):
        self.count, self.names = 0, ["a"]


def test_what_forward_leaves_behind_is_taken_back():
    model, held = nn.Linear(2, 2), Held()
    model.held, model.cache, model.rng = held, {"one": {"two": [1]}}, random.Random(1)
    model.generator = torch.Generator().manual_seed(1)
    before = live.picture(model), vars(held).copy(), model.rng.getstate()
    with untouched(model):
        held.count, held.new = 1, 2
        held.names.append("b")
        model.cache["one"]["two"].append(2)
        model.cache["three"] = 3
        model.rng.random()
        torch.rand(1, generator=model.generator)
        model.weight.grad = torch.ones(2, 2)
        model.weight.note = "new"
        model.register_forward_hook(print)
        model.bias = nn.Parameter(torch.zeros(2))
        model.extra = nn.ReLU()
    assert live.changes(before[0], live.picture(model)) == []
    assert (vars(held), held.names, model.cache) == (before[1], ["a"], {"one": {"two": [1]}})
    assert model.rng.getstate() == before[2]
