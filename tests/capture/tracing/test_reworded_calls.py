"""What torch.export cannot trace and a graph can have is in the program; gradients inside forward and packed rows are refused."""

import itertools

import pytest
import torch
import torch.distributions as D
import torch.nn.functional as F
from capture_refused import line_of, refused
from compiling import QUICK
from shared_captures import these_rows
from torch import nn
from trained import assert_trains_the_same

import autopar
from autopar.capture.tracing import reworded_functions


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
    with these_rows():
        one = autopar.compile(model, inputs, grid="2", machine=QUICK)
    assert one.plan.evaluation == ""
    for each in (one, one.replan(grid="2x2")):
        assert_trains_the_same(each, model, inputs, steps=3)


class Checked(Net):
    """Functions of torch that look at numbers to say what is wrong with them, or how long a result is."""

    def __init__(self):
        super().__init__()
        self.register_buffer("start", torch.tensor(1))

    def forward(self, x):
        h = self.fc(x)
        loss = F.gaussian_nll_loss(h, x, h.exp(), full=True) + F.gaussian_nll_loss(
            h, x, h.exp().mean(1), reduction="sum"
        )
        loss = loss + nn.GaussianNLLLoss()(h, x, x.square()[:, :1]) + F.gaussian_nll_loss(h, x, 0.5)
        loss = (
            loss
            + torch.cov(h, aweights=x[0].exp()).square().sum()
            + h.cov().sum()
            + (torch.corrcoef(h) * x[:, :4]).sum()
        )
        loss = loss + (torch.narrow(h, 1, self.start, 3) * h.narrow(1, (self.start + 1) % 3, 3)).sum()
        solution, *_ = torch.linalg.lstsq(h.T, x.T)
        loss = loss + solution.square().sum() + torch.linalg.lstsq(h.T, x.T, driver="gelsd").solution.sum()
        normal, chosen = D.Normal(h, h.exp()), D.Categorical(logits=h)
        loss = loss + D.kl_divergence(normal, D.Normal(x, 1.0)).mean() - D.Independent(normal, 1).log_prob(x).mean()
        loss = loss - chosen.log_prob(x.argmax(1)).mean() - D.MixtureSameFamily(chosen, normal).log_prob(x[:, 0]).sum()
        return loss - D.Bernoulli(h.sigmoid()).log_prob((x > 0).to(x.dtype)).mean() + chosen.entropy().mean()


def test_checks_of_torchs_own_are_no_part_of_a_program():
    torch.manual_seed(0)
    model, inputs = Checked().double(), {"x": torch.randn(4, 6, dtype=torch.float64)}
    checking = D.Distribution._validate_args
    with these_rows():
        one = autopar.compile(model, inputs, grid="2", machine=QUICK)
    assert D.Distribution._validate_args is checking
    assert_trains_the_same(one, model, inputs, steps=2)


def test_covariances_are_torchs():
    torch.manual_seed(0)
    x, often = torch.randn(4, 6, dtype=torch.float64, requires_grad=True), torch.tensor([1, 2, 0, 1, 3, 1])
    weights = torch.rand(6, dtype=torch.float64, requires_grad=True)
    whole = (x.detach() * 4).long()
    for correction, fweights, aweights in itertools.product((0, 1, 9), (None, often), (None, weights)):
        options = {"correction": correction, "fweights": fweights, "aweights": aweights}
        for one in (x, x[0], x + 2j * x.roll(1, 0), whole):
            _assert_same(reworded_functions.cov(one, **options), torch.cov(one, **options), (x, weights))
    for one in (x, x[:1], x[0], x + 2j * x.roll(1, 0), whole):
        _assert_same(reworded_functions.corrcoef(one), torch.corrcoef(one), (x,))
    assert reworded_functions.cov(x, fweights=-often).isnan().all()


def _assert_same(found, wanted, leaves):
    tolerance = 1e-12 if wanted.dtype in (torch.float64, torch.complex128) else 1e-5
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)
    if wanted.requires_grad and wanted.isfinite().all():
        gradients = [
            torch.autograd.grad((one * one.detach()).sum().abs(), leaves, allow_unused=True, retain_graph=True)
            for one in (found, wanted)
        ]
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


def test_a_negative_variance_gives_no_number():
    for var in (torch.tensor([1.0, -1.0]), torch.tensor([1.0, 0.0])):
        loss = reworded_functions.gaussian_nll_loss(torch.ones(2), torch.ones(2), var, reduction="none")
        assert loss.isnan().tolist() == (var < 0).tolist()


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


class Classes(Net):
    def forward(self, x):
        return self.fc(x).sum() * F.one_hot((x > 0).sum(1)).sum()


class Residuals(Net):
    def forward(self, x):
        found = torch.linalg.lstsq(self.fc(x).T, x[:4].T)
        return found.residuals.sum()


class Alike(Net):
    def forward(self, x):
        return self.fc(x).sum() if torch.allclose(x, self.fc(x)) else x.mean()


@pytest.mark.parametrize(
    ("model", "code", "given", "fix"),
    [
        (
            Classes,
            "return self.fc(x).sum() * F.one_hot(",
            "one_hot() without a number of classes",
            "F.one_hot(x, num_classes)",
        ),
        (Residuals, "found = torch.linalg.lstsq(", "the residuals of lstsq()", "(a @ x - b).square().sum(-2)"),
        (
            Alike,
            "return self.fc(x).sum() if torch.allclose(",
            "forward depends on the values of a tensor",
            "torch.where",
        ),
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
def test_what_no_program_can_do_is_refused(model, code, given, fix):
    text = refused(model, {"x": torch.ones(6, 6)})
    assert text.startswith(line_of(model, code)[:-1]), text
    assert given in text.partition("rule:")[0]
    assert fix in text.partition("fix:")[2]
