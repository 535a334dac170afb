"""A Fourier neural operator that advances a field of two phases in time: the Allen-Cahn equation on a periodic square.

The operator of Li et al. (2021): in every layer a convolution over the whole square, done by multiplying the lowest
Fourier modes with weights, beside a convolution of one pixel. The transform is taken one dim at a time and cut to the
kept modes in between, which is less work than a transform of both, and lets the other dim be split meanwhile.
"""

import torch
import torch.nn.functional as F
from torch import nn

LAYERS, WIDTH, MODES = 4, 32, 12
SIZE, BATCH = 128, 8


class SpectralConv(nn.Module):
    """y = F^-1 (W F x) for the modes -modes..modes-1 of rows and 0..modes-1 of columns; zero for all others."""

    def __init__(self, width, modes):
        super().__init__()
        self.modes = modes
        self.weight = nn.Parameter(torch.randn(width, width, 2 * modes, modes, 2) / width)

    def forward(self, x):
        rows, columns, modes = x.shape[-2], x.shape[-1], self.modes
        f = torch.fft.rfft(x, dim=-1)[..., :modes]
        f = torch.fft.fft(f, dim=-2)
        f = torch.cat([f[..., :modes, :], f[..., -modes:, :]], dim=-2)
        f = torch.einsum("bihw,iohw->bohw", f, torch.view_as_complex(self.weight))
        middle = f.new_zeros(*f.shape[:2], rows - 2 * modes, modes)
        f = torch.cat([f[..., :modes, :], middle, f[..., modes:, :]], dim=-2)
        f = torch.fft.ifft(f, dim=-2)
        return torch.fft.irfft(f, n=columns, dim=-1)


class Layer(nn.Module):
    def __init__(self, width, modes):
        super().__init__()
        self.spectral = SpectralConv(width, modes)
        self.local = nn.Conv2d(width, width, 1)

    def forward(self, x):
        return F.gelu(self.spectral(x) + self.local(x))


class FNO(nn.Module):
    def __init__(self, layers=LAYERS, width=WIDTH, modes=MODES):
        super().__init__()
        self.lift = nn.Conv2d(1, width, 1)
        self.layers = nn.ModuleList(Layer(width, modes) for _ in range(layers))
        self.project = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.GELU(), nn.Conv2d(2 * width, 1, 1))

    def forward(self, before, after):
        x = self.lift(before)
        for layer in self.layers:
            x = layer(x)
        return F.mse_loss(self.project(x), after)


def model(layers=LAYERS, width=WIDTH, modes=MODES):
    return FNO(layers, width, modes)


def example_inputs(size=SIZE, batch=BATCH):
    return {"before": torch.zeros(batch, 1, size, size), "after": torch.zeros(batch, 1, size, size)}


def optimizer(params):
    return torch.optim.AdamW(params, lr=2e-3)


def batches(size=SIZE, batch=BATCH):
    draw = torch.Generator().manual_seed(0)
    while True:
        before = smooth_field(batch, size, draw)
        yield {"before": before, "after": allen_cahn(before)}


def smooth_field(batch, size, draw):
    """Random periodic fields between -1 and 1, without waves shorter than an eighth of the square."""
    waves = torch.fft.rfft2(torch.randn(batch, 1, size, size, generator=draw))
    waves *= squared_frequencies(size) <= 8**2
    field = torch.fft.irfft2(waves, s=(size, size))
    return field / field.abs().amax(dim=(-2, -1), keepdim=True)


def allen_cahn(u, steps=20, dt=0.1, viscosity=2e-3):
    """The solution of u_t = viscosity * laplace(u) + u - u^3 after `steps` steps, the Laplacian taken implicitly."""
    smoothing = 1 / (1 + dt * viscosity * (2 * torch.pi) ** 2 * squared_frequencies(u.shape[-1]))
    for _ in range(steps):
        u = torch.fft.irfft2(smoothing * torch.fft.rfft2(u + dt * (u - u**3)), s=u.shape[-2:])
    return u


def squared_frequencies(size):
    rows, columns = torch.fft.fftfreq(size, 1 / size), torch.fft.rfftfreq(size, 1 / size)
    return rows[:, None] ** 2 + columns**2
