"""Four 4096 x 4096 linear layers that take the noise out of handwritten digits (scikit-learn's, 64 x 64 pixels)."""

import math

import torch
import torch.nn.functional as F
from torch import nn

WIDTH = 4096  # pixels of one image, and features of every layer
BATCH = 32
NOISE = 0.5


class Denoiser(nn.Module):
    def __init__(self, width=WIDTH):
        super().__init__()
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)
        self.fc3 = nn.Linear(width, width)
        self.fc4 = nn.Linear(width, width)

    def forward(self, noisy, clean):
        h = F.relu(self.fc1(noisy))
        h = F.relu(self.fc2(h))
        h = F.relu(self.fc3(h))
        return F.mse_loss(self.fc4(h), clean)


def model(width=WIDTH):
    return Denoiser(width)


def example_inputs(width=WIDTH, batch=BATCH):
    return {"noisy": torch.zeros(batch, width), "clean": torch.zeros(batch, width)}


def optimizer(params):
    return torch.optim.AdamW(params, lr=1e-4)


def batches(width=WIDTH, batch=BATCH):
    images, draw = digits(width), torch.Generator().manual_seed(0)
    while True:
        clean = images[torch.randint(len(images), (batch,), generator=draw)]
        yield {"noisy": clean + NOISE * torch.randn(clean.shape, generator=draw), "clean": clean}


def digits(width):
    """1797 digits of 8 x 8 pixels in 0..1, enlarged to `width` pixels (a square number)."""
    from sklearn.datasets import load_digits

    images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16
    side = math.isqrt(width)
    return F.interpolate(images, size=(side, side), mode="bilinear").flatten(1)
