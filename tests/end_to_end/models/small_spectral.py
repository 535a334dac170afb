"""A Fourier neural operator as its authors write it: complex weights, the lowest modes written into zeros."""

import torch
import torch.nn.functional as F
from torch import nn


class Spectral(nn.Module):
    def __init__(self, width, modes):
        super().__init__()
        self.modes = modes
        self.weight = nn.Parameter(torch.randn(2, width, width, modes, modes, dtype=torch.complex64) / width)

    def forward(self, x):
        m = self.modes
        f = torch.fft.rfft2(x)
        kept = torch.zeros(x.shape[0], self.weight.shape[2], *f.shape[-2:], dtype=f.dtype, device=x.device)
        kept[:, :, :m, :m] = torch.einsum("bixy,ioxy->boxy", f[:, :, :m, :m], self.weight[0])
        kept[:, :, -m:, :m] = torch.einsum("bixy,ioxy->boxy", f[:, :, -m:, :m], self.weight[1].conj())
        return torch.fft.irfft2(kept, s=x.shape[-2:])


class Net(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.lift = nn.Conv2d(1, width, 1)
        self.spectral = Spectral(width, 3)
        self.local = nn.Conv2d(width, width, 1)
        self.out = nn.Conv2d(width, 1, 1)

    def forward(self, x, y):
        h = self.lift(x)
        return F.mse_loss(self.out(F.gelu(self.spectral(h) + self.local(h))), y)


def model():
    return Net()


def example_inputs():
    draw = torch.Generator().manual_seed(0)
    return {name: torch.randn(2, 1, 10, 9, generator=draw) for name in ("x", "y")}
