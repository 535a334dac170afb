"""Small models whose batches are divided, and what is trained of them: the model itself, and its program on simulated ranks."""

import copy
import functools

import torch
import torch.nn.functional as F
from compiling import QUICK, session_maker
from torch import nn

import autopar
from autopar.ir.grid import GridShape
from autopar.runtime import simulate
from autopar.runtime.functional.model_random import ProgramRandom
from autopar.runtime.grid.counter_rng import drawing

ROWS = 7


class Tokens(nn.Module):
    """A small GPT-2: tied embeddings, blocks with causal attention and dropout, labels of which some are ignored."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(11, 8), nn.Embedding(5, 8)
        self.h = nn.ModuleList(Block(dropout) for _ in range(2))
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, ids, labels):
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.h:
            x = block(x)
        logits = self.head(x)
        loss = F.cross_entropy(logits[:, :-1].reshape(-1, 11), labels[:, 1:].reshape(-1))
        return {"loss": loss, "logits": logits}


class Block(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.norm, self.attn, self.proj, self.drop = (
            nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8), nn.Dropout(dropout)
        )  # fmt: skip
        self.p = dropout

    def forward(self, x):
        q, k, v = self.attn(self.norm(x)).view(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.p if self.training else 0.0, is_causal=True)
        return x + self.drop(self.proj(y.transpose(1, 2).reshape(x.shape)))


class Weighted(nn.Module):
    """A masked mean, a cross entropy with class weights, a number of rows in the model's text, and weight decay in the loss."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.register_buffer("weight", torch.tensor([0.5, 1.0, 2.0]))

    def forward(self, x, mask, y):
        z = self.fc(x)
        masked = (z.square().mean(-1) * mask).sum() / mask.sum().clamp(min=1)
        classes = F.cross_entropy(z[:, 0], y, self.weight, label_smoothing=0.1)
        return masked + classes + z.sum() / x.shape[0] + 0.01 * self.fc.weight.square().sum() + z.mean() * 0.5


class Images(nn.Module):
    """Convolutions with group norm, and a batch norm that may go by its running statistics."""

    def __init__(self):
        super().__init__()
        self.conv, self.group, self.fc = nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Linear(4, 3)
        self.batch = nn.BatchNorm2d(4)

    def train(self, mode=True):
        super().train(mode)
        self.batch.eval()
        return self

    def forward(self, x, y):
        x = F.max_pool2d(F.relu(self.group(self.batch(self.conv(x)))), 2)
        return F.cross_entropy(self.fc(x.mean((2, 3))), y)


class Picked(nn.Module):
    """A table of zeros for the rows, and of every row the last token that counts."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x, last):
        first = x.new_zeros(x.shape[0], 1, 4)
        z = self.fc(torch.cat([first, x], 1))
        return torch.tanh(z[torch.arange(x.shape[0]), last]).square().mean()


class Guarded(nn.Module):
    """Another model of few rows, and of many."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        y = self.fc(x)
        if x.shape[0] > 8:
            return y.square().sum()
        return (torch.tanh(y) if x.shape[0] > 2 else y).square().mean()


class Listed(nn.Module):
    """An encoder that looks its heads up by the number of rows: nobody can tell what it does for another number."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        heads = {5: 2, 6: 2, 3: 2}[x.shape[0]]
        return torch.tanh(self.fc(x)).view(x.shape[0], heads, -1).softmax(-1).square().sum((1, 2)).mean()


class Folded(nn.Module):
    """Rows are folded in pairs where that goes, and the pairs added up: a micro-batch of an odd number of rows has no pairs."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        folded = 2 if x.shape[0] % 2 == 0 else 1
        return torch.tanh(self.fc(x.reshape(-1, folded, 4)).sum(1)).square().mean()


class Powers(nn.Module):
    """A step of a power iteration: a buffer that every step changes, whatever the batch."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3, bias=False)
        self.register_buffer("u", torch.ones(3))

    def forward(self, x):
        with torch.no_grad():
            v = F.normalize(self.fc.weight.t() @ self.u, dim=0)
            u = F.normalize(self.fc.weight @ v, dim=0)
            self.u.copy_(u)
        return F.linear(x, self.fc.weight / (u @ self.fc.weight @ v)).square().mean()


def tokens(rows=ROWS):
    labels = torch.randint(0, 11, (rows, 5))
    labels[:3], labels[-1, 2] = -100, -100  # the first micro-batch has none that count
    return {"ids": torch.randint(0, 11, (rows, 5)), "labels": labels}


def weighted(rows=ROWS):
    mask = torch.rand(rows, 5) > 0.5
    mask[:2] = False
    return {"x": torch.randn(rows, 5, 4, dtype=torch.float64), "mask": mask, "y": torch.randint(0, 3, (rows,))}


def images(rows=ROWS):
    return {"x": torch.randn(rows, 2, 6, 6, dtype=torch.float64), "y": torch.randint(0, 3, (rows,))}


def picked(rows=ROWS):
    return {"x": torch.randn(rows, 5, 4, dtype=torch.float64), "last": torch.randint(0, 6, (rows,))}


def rows_of_four(rows=ROWS):
    return {"x": torch.randn(rows, 4, dtype=torch.float64)}


MODELS = {
    "tokens": (Tokens, tokens),
    "dropout": (lambda: Tokens(0.3), tokens),
    "weighted": (Weighted, weighted),
    "images": (Images, images),
    "powers": (Powers, rows_of_four),
    "picked": (Picked, picked),
}


@functools.cache
def captured(name, rows=ROWS, **options):
    """A model, three batches, and what it is compiled to, undivided: it is captured once."""
    build, inputs = {**MODELS, "listed": (Listed, rows_of_four), "folded": (Folded, rows_of_four)}[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, batches = build().double().train(), [inputs(rows) for _ in range(3)]
    return (
        model,
        batches,
        autopar.compile(copy.deepcopy(model), batches[0], grid="1", machine=QUICK, name=name, **options),
    )


def compiled(name, grid, microbatches, rows=ROWS, **options):
    """The model, its batches and what it is compiled to."""
    model, batches, one = captured(name, rows, **options)
    return model, batches, one.replan(grid=grid, microbatches=microbatches)


def trained(model, batches, options=None):
    """Losses of the steps, each a step of AdamW; the model itself draws what a program draws."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for step, batch in enumerate(batches, 1):
        optimizer.zero_grad()
        with drawing(0, step), ProgramRandom():
            found = model(**batch)
        loss = found["loss"] if isinstance(found, dict) else found
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def on_ranks(one, model, run):
    """What `run` gives for the session of every rank."""
    session = session_maker(one, model)
    return simulate(GridShape.parse(one.plan.grid).size, lambda: run(session()))


def trained_program(parallel, batches):
    optimizer = torch.optim.AdamW(parallel.parameters(), lr=1e-3)
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        loss = parallel(**batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def assert_as_sequential(outcome, expected, losses):
    """Losses, gradients and state of a program are those of the trained model."""
    found, gradients, state = outcome
    torch.testing.assert_close(found, losses, rtol=1e-10, atol=1e-10)
    for key, parameter in expected.named_parameters():
        torch.testing.assert_close(gradients[key], parameter.grad, rtol=1e-10, atol=1e-10)
    for key, value in expected.state_dict().items():
        if key in state:
            torch.testing.assert_close(state[key], value, rtol=1e-10, atol=1e-10)
