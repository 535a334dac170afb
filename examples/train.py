"""A whole training script: loader, schedule, clipping, evaluation, metrics, checkpoints, going on from them, and prediction.

    mpiexec -n 2 python -m mpi4py examples/train.py --epochs 4 --folder digits
    mpiexec -n 2 python -m mpi4py examples/train.py --epochs 8 --folder digits      # goes on after the fourth

The images are the handwritten digits that scikit-learn ships. Every rank reads whole batches, drawn alike; docs/data.md says how
each reads its part only. On another number of ranks it goes on from the same checkpoints.
"""

import argparse
import csv
import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import autopar

ROWS, CLASSES, HELD_BACK = 64, 10, 297


class Classifier(nn.Module):
    """Two convolutions and a head."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=3, padding=1, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, CLASSES),
        )

    def forward(self, image, label):
        logits = self.layers(image)
        return {"loss": nn.functional.cross_entropy(logits, label), "logits": logits}


def datasets():
    """Images of 8 x 8 pixels with their digits: to learn from, and held back."""
    digits = load_digits()
    every = TensorDataset(
        torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target, dtype=torch.int64)
    )
    count = len(every) - HELD_BACK
    return torch.utils.data.Subset(every, range(count)), torch.utils.data.Subset(every, range(count, len(every)))


def train_epoch(parallel, optimizer, schedule, images, epoch):
    """One pass over the images, in an order that all ranks draw alike; the mean loss."""
    order = torch.Generator().manual_seed(epoch)
    parallel.train()
    total = 0.0
    for image, label in DataLoader(images, ROWS, shuffle=True, generator=order):
        out = parallel(image=image, label=label)
        optimizer.zero_grad()
        out.loss.backward()
        parallel.clip_grad_norm_(1.0)
        optimizer.step()
        schedule.step()
        total += out.loss.item() * len(image)
    return total / len(images)


def evaluate(parallel, images):
    """Mean loss and accuracy; the last batch is smaller, which needs no care."""
    parallel.eval()
    loss = right = 0.0
    with torch.no_grad():
        for image, label in DataLoader(images, ROWS):
            out = parallel(image=image, label=label)
            loss += out.loss.item() * len(image)
            right += (out.logits.argmax(-1) == label).sum().item()
    return loss / len(images), right / len(images)


def main(arguments=None):
    """Train and predict; returns a line for every epoch, and the digits that it sees in the images held back."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=Path("digits"))
    parser.add_argument("--grid", default="auto")
    options = parser.parse_args(arguments)
    images, held_back = datasets()
    image, label = held_back[:ROWS]

    inputs = {"image": image, "label": label}
    parallel = autopar.parallelize(Classifier, inputs, grid=options.grid, outputs=("logits",), seed=0)
    optimizer = torch.optim.AdamW(parallel.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)

    lines = []
    if (options.folder / "checkpoints").is_dir():
        found = parallel.load(options.folder / "checkpoints", optimizer, scheduler=schedule)
        lines = found.extra["lines"]
    for epoch in range(len(lines), options.epochs):
        loss = train_epoch(parallel, optimizer, schedule, images, epoch)
        lines.append([epoch, loss, *evaluate(parallel, held_back)])
        parallel.save(
            options.folder / "checkpoints",
            optimizer,
            step=epoch + 1,
            scheduler=schedule,
            extra={"lines": lines},
            keep=2,
        )
        if parallel.grid.comm.rank == 0:
            write_metrics(options.folder / "metrics.csv", lines)
            print("epoch {}  loss {:.4f}  held back {:.4f}  accuracy {:.3f}".format(*lines[-1]), flush=True)
    digits = parallel.predict(image=held_back[:][0]).logits.argmax(-1)
    return lines, digits.tolist()


def write_metrics(path, lines):
    """All epochs, as they are now."""
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["epoch", "loss", "held_back_loss", "accuracy"], *lines])


if __name__ == "__main__":
    main(sys.argv[1:])
