"""Numbers taken out of tensors: those of constants are literals of the program, any others are refused at their line."""

import pytest
import torch
from torch import nn

from autopar.capture import capture
from autopar.errors import CaptureError
from autopar.ops.interpreter import run

X = torch.linspace(-1, 2, 24, dtype=torch.float64).reshape(4, 6)


class Net(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.fc, self.way = nn.Linear(6, 3).double(), way
        self.plain = torch.tensor([1.0, 2.0, 3.0])
        self.register_buffer("kept", torch.tensor(2.0, dtype=torch.float64))

    def forward(self, x):
        return self.way(self, self.fc(x)).sum()


def dims(net, y):
    return y.mean(torch.arange(1, y.dim()).tolist())


def counted(net, y):
    table = torch.zeros(3, dtype=torch.long)
    table[1:] += 2
    table[0] = 5
    torch.nn.functional.relu(table, inplace=True).neg_().neg_()
    torch.add(table, 0, out=table)
    return y * table[0].item() + y[:, : int(table[1:].min())].sum() * (3 if table.bool().all() else 7)


def unbound(net, y):
    return torch.stack([y[:, i] * w for i, w in zip(torch.tensor([2, 0]).unbind(), net.plain.tolist(), strict=False)])


def compared(net, y):
    same = torch.equal(torch.eye(3)[1], torch.tensor([0.0, 1.0, 0.0])) and 2.0 in net.plain
    return y * 3 if same else y


def by_numpy(net, y):
    return y * float(torch.arange(4.0).numpy().sum())


def reads_the_batch(net, y):
    return y * y.sum().item()


def reads_a_buffer(net, y):
    return y if net.kept > 1 else -y


def reads_a_parameter(net, y):
    return y[:, : int(net.fc.bias[0])]


def reads_what_was_written(net, y):
    table = torch.zeros(3, dtype=torch.float64)
    view = table[1:]
    view[0] = y.sum()
    return y * table.tolist()[1]


def reads_what_was_changed_by_an_option(net, y):
    table = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    torch.nn.functional.relu(table[:1], inplace=True)
    torch.mul(table, y.detach().sum(), out=table)
    return y * table.tolist()[0]


def reads_a_random_number(net, y):
    return y * torch.rand(()).item()


def reads_nothing(net, y):
    return y * torch.empty(2).tolist()[0]


@pytest.mark.parametrize(
    ("way", "live"), [(dims, True), (counted, True), (unbound, False), (compared, True), (by_numpy, True)]
)
def test_numbers_of_constants_are_literals(way, live):
    torch.manual_seed(0)
    net = Net(way)
    one = capture(net if live else lambda: Net(way), (X,), name="net")
    assert not one.batch.fixed
    state = dict(net.named_parameters()) | dict(net.named_buffers()) | one.constants
    known = {item.value: state[item.name] for item in one.graph.parameters} | {one.graph.inputs[0].value: X}
    torch.testing.assert_close(run(one.graph.nodes, known)[one.graph.loss], net(X), rtol=1e-12, atol=0)
    assert torch.equal(net.plain, torch.tensor([1.0, 2.0, 3.0]))


@pytest.mark.parametrize(
    "way",
    [
        reads_the_batch,
        reads_a_buffer,
        reads_a_parameter,
        reads_what_was_written,
        reads_what_was_changed_by_an_option,
        reads_a_random_number,
        reads_nothing,
    ],
    ids=lambda way: way.__name__,
)
def test_other_numbers_are_refused_at_the_line_that_takes_them(way):
    with pytest.raises(CaptureError) as refused:
        capture(Net(way), (X,), name="net")
    first, *rest = str(refused.value).splitlines()
    last = (
        way.__code__.co_firstlineno
        + max(line for *_, line in way.__code__.co_lines() if line)
        - way.__code__.co_firstlineno
    )
    assert first.startswith(f"test_known_numbers.py:{last}: `return y")
    assert "values of a tensor" in first
    assert any("of a tensor that is no constant: " in line for line in rest)
