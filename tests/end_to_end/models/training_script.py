"""A training script as a user writes it: started by mpiexec, it trains a model on all ranks and checks its accuracy.

At last it asks for what is refused.
"""

import copy
import sys

import torch
import torch.nn.functional as F
from torch import nn

import autopar


class Classifier(nn.Module):
    """Returns logits and loss, as a tuple."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Linear(5, 16, bias=False)
        self.norm = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 3)

    def forward(self, x, labels):
        logits = self.head(F.relu(self.norm(self.wide(x))))
        return logits, F.cross_entropy(logits, labels)


def batch(step, rows):
    draw = torch.Generator().manual_seed(step)
    return torch.randn(rows, 5, generator=draw, dtype=torch.float64), torch.randint(3, (rows,), generator=draw)


def train(model):
    """Two epochs, the last batch of which is smaller than the others."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    clip = getattr(model, "clip_grad_norm_", lambda limit: nn.utils.clip_grad_norm_(model.parameters(), limit))
    for epoch in range(2):
        model.train()
        for step, rows in enumerate((8, 8, 3)):
            optimizer.zero_grad()
            _, loss = model(*batch(10 * epoch + step, rows))
            loss.backward()
            clip(0.1)
            optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        logits, loss = model(*batch(99, 7))
    return logits, loss


def refused():
    """What all ranks refuse: an error that the script catches, and one that it does not."""
    model, inputs = nn.Sequential(nn.Linear(3, 4), nn.Flatten(0), nn.Softmax(0)), (torch.ones(2, 3),)
    try:
        autopar.parallelize(model, inputs, grid="2", solver="magic")
    except autopar.errors.ConfigError:
        sys.stdout.write("caught\n")
    autopar.parallelize(model, inputs, grid="2")


if __name__ == "__main__":
    torch.manual_seed(0)
    model = Classifier().double()
    sequential = copy.deepcopy(model)
    pins = ["wide: b0@axis0", "norm: n@axis0"]
    parallel = autopar.parallelize(model, batch(0, 8), grid="2", loss="1", outputs=("0",), pin=pins)
    found, loss = train(parallel)
    expected, other = train(sequential)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(loss, other, rtol=1e-10, atol=0)
    torch.testing.assert_close(parallel.full_state_dict(), dict(sequential.state_dict()), rtol=1e-9, atol=1e-10)
    sys.stdout.write(f"rank {parallel.grid.rank} agrees\n")
    refused()
