"""A model trained by torch and by its program on simulated ranks: losses and gradients of every step and what is left behind."""

import copy

import torch
from compiling import QUICK, session_maker
from shared_captures import these_rows
from torch import nn

import autopar
from autopar.ir.grid import GridShape
from autopar.runtime import simulate


class Together(nn.Module):
    """Several models of one input beside each other, so that one capture serves for all; their losses are added."""

    def __init__(self, nets):
        super().__init__()
        self.nets = nn.ModuleDict(nets)

    def forward(self, x):
        return sum(net(x) for net in self.nets.values())


def steps_of(model, batches, gradients):
    """Losses and gradients of a few steps of SGD."""
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.05)
    found = []
    for batch in batches:
        optimizer.zero_grad()
        loss = model(**batch)
        loss.backward()
        found.append((loss.item(), {name: one.clone() for name, one in gradients().items()}))
        optimizer.step()
    return found


def batches_like(inputs, steps):
    """Batches in float64 of the shapes of example inputs; what is no floating-point tensor stays."""
    draw = torch.Generator().manual_seed(5)
    return [
        {
            name: torch.randn(one.shape, generator=draw, dtype=torch.float64) if one.is_floating_point() else one
            for name, one in inputs.items()
        }
        for _ in range(steps)
    ]


def assert_trains_the_same(one, model, inputs, steps=2, relative=1e-10):
    """The program's losses, gradients, parameters and buffers are those of `model`, which is left as it is, in float64."""
    model = copy.deepcopy(model).double()
    start, batches = copy.deepcopy(model), batches_like(inputs, steps)
    expected = steps_of(
        model, batches, lambda: {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    )
    session = session_maker(one, start)

    def rank():
        parallel = session()
        return steps_of(parallel, batches, parallel.full_gradients), parallel.full_state_dict()

    after = model.state_dict() | dict(model.named_buffers(remove_duplicate=False))
    for found, state in simulate(GridShape.parse(one.plan.grid).size, rank):
        assert state.keys() >= model.state_dict().keys()
        for name, value in state.items():
            _assert_close(value.detach().double(), after[name].detach().double(), relative, name)
        for (loss, gradients), (wanted, others) in zip(found, expected, strict=True):
            assert abs(loss - wanted) <= relative * max(abs(wanted), 1)
            for name in gradients.keys() | others.keys():
                _assert_close(gradients.get(name), others.get(name), relative, name)


def assert_all_train_the_same(nets, steps=3):
    """Of these nets of x (4 x 6), by name, captured together: programs on two grids train as they do, in float64."""
    torch.manual_seed(0)
    model, inputs = Together(nets()).double(), {"x": torch.randn(4, 6, dtype=torch.float64)}
    with these_rows():
        one = autopar.compile(model, inputs, grid="2", machine=QUICK)
    for program in (one, one.replan(grid="2x2")):
        assert_trains_the_same(program, model, inputs, steps=steps)


def _assert_close(found, wanted, relative, name):
    """Gradients that are missing are zeros."""
    found = torch.zeros_like(wanted) if found is None else found
    wanted = torch.zeros_like(found) if wanted is None else wanted
    assert float((found - wanted).abs().max()) <= relative * max(float(wanted.abs().max()), 1e-6), name
