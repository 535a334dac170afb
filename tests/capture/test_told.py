"""What torch.export cannot trace and a graph can have is in the program; gradients inside forward and packed rows are refused."""

import pytest
import torch
import torch.nn.functional as F
from capture_refused import line_of, refused
from compiling import QUICK
from torch import nn
from trained import assert_trains_the_same

import autopar


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.lstm = nn.LSTM(6, 6, batch_first=True)


class Told(Net):
    """A connectionist loss, counts, masks of a transformer, a table whose rows are kept short."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 6, dropout=0.0, batch_first=True), 1)
        self.table = nn.Embedding(8, 6, max_norm=1.0)
        self.register_buffer("counts", torch.zeros(8))
        self.register_buffer("mask", torch.triu(torch.ones(4, 4, dtype=torch.bool), 1))

    def forward(self, x):
        h = self.fc(x)
        scores = h.view(4, 3, 2).repeat(2, 1, 2).log_softmax(2)
        loss = F.ctc_loss(scores, (x[:3, :2] > 0).long() + 1, (8, 7, 8), target_lengths=(2, 1, 2), zero_infinity=True)
        cells = (x[:, 0] * 2).round().long().clamp(-4, 3) + 4
        self.counts += torch.bincount(cells, minlength=8)
        self.counts += cells.bincount(x[:, 1], 8)
        dark = (x[:, 0] > 1.5)[None]
        y = self.encoder(h[None], mask=self.mask) + self.encoder(h[None], src_key_padding_mask=dark)
        return loss + (y[0] * self.table(cells)).square().mean() + (h.mean(1) * self.counts[cells]).mean()


def test_the_program_computes_what_was_told():
    torch.manual_seed(0)
    model, inputs = Told().double(), {"x": torch.randn(4, 6, dtype=torch.float64)}
    one = autopar.compile(model, inputs, grid="2", machine=QUICK)
    assert one.plan.evaluation == ""
    for each in (one, one.replan(grid="2x2")):
        assert_trains_the_same(each, model, inputs, steps=3)


class Penalty(Net):
    def forward(self, x):
        x = x.detach().requires_grad_()
        y = self.fc(x).tanh().sum()
        slope = torch.autograd.grad(y, x, create_graph=True)[0]
        return slope.square().mean() + y


class Functional(Net):
    def forward(self, x):
        slope = torch.func.grad(lambda z: self.fc(z).tanh().sum())(x)
        return slope.square().mean()


class Hessian(Net):
    def forward(self, x):
        bend = torch.func.hessian(lambda z: self.fc(z).tanh().sum())(x[0])
        return bend.square().mean()


class Backward(Net):
    def forward(self, x):
        self.fc(x).sum().backward()
        return self.fc(x).sum()


class Packed(Net):
    def forward(self, x):
        rows = nn.utils.rnn.pack_padded_sequence(self.fc(x)[None].expand(2, 6, 6), [6, 2], batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(self.lstm(rows)[0], batch_first=True)[0].mean()


@pytest.mark.parametrize(
    ("model", "code", "given", "fix"),
    [
        (
            Penalty,
            "slope = torch.autograd.grad(y, x, create_graph=True)[0]",
            "forward takes a gradient",
            "torch.func.jvp",
        ),
        (Functional, "slope = torch.func.grad(", "forward takes a gradient", "torch.func.jvp"),
        (Hessian, "bend = torch.func.hessian(", "forward takes a gradient", "torch.func.jvp"),
        (Backward, "self.fc(x).sum().backward()", "forward takes a gradient", "torch.func.jvp"),
        (
            Packed,
            "rows = nn.utils.rnn.pack_padded_sequence(",
            "forward packs sequences by their lengths",
            "torch.gather",
        ),
    ],
)
def test_gradients_inside_forward_and_packed_rows_are_refused(model, code, given, fix):
    text = refused(model, {"x": torch.ones(6, 6)})
    assert text.startswith(line_of(model, code)[:-1]), text
    assert given in text.partition("rule:")[0]
    assert fix in text.partition("fix:")[2]
