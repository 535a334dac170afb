"""A 3-D U-Net of three levels that takes the noise out of magnetic resonance volumes (those that nibabel ships)."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

CHANNELS = 8  # of the finest level; each coarser level has twice as many
SIZE = (128, 96, 24)  # voxels, divisible by 4
NOISE = 0.3


def block(inputs, outputs):
    """Two convolutions that keep the extent, each normalised."""
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm3d(outputs),
        nn.SiLU(),
        nn.Conv3d(outputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm3d(outputs),
        nn.SiLU(),
    )


class UNet(nn.Module):
    def __init__(self, channels=CHANNELS):
        super().__init__()
        fine, middle, coarse = channels, 2 * channels, 4 * channels
        self.encode_fine = block(1, fine)
        self.encode_middle = block(fine, middle)
        self.bottom = block(middle, coarse)
        self.up_middle = nn.ConvTranspose3d(coarse, middle, kernel_size=2, stride=2)
        self.decode_middle = block(2 * middle, middle)
        self.up_fine = nn.ConvTranspose3d(middle, fine, kernel_size=2, stride=2)
        self.decode_fine = block(2 * fine, fine)
        self.head = nn.Conv3d(fine, 1, kernel_size=1)
        self.pool = nn.MaxPool3d(2)

    def forward(self, noisy, clean):
        fine = self.encode_fine(noisy)
        middle = self.encode_middle(self.pool(fine))
        bottom = self.bottom(self.pool(middle))
        middle = self.decode_middle(torch.cat([self.up_middle(bottom), middle], dim=1))
        fine = self.decode_fine(torch.cat([self.up_fine(middle), fine], dim=1))
        return F.mse_loss(self.head(fine), clean)


def model(channels=CHANNELS):
    return UNet(channels)


def example_inputs(size=SIZE):
    return {"noisy": torch.zeros(1, 1, *size), "clean": torch.zeros(1, 1, *size)}


def optimizer(params):
    return torch.optim.AdamW(params, lr=1e-2)


def batches(size=SIZE):
    scans, draw = volumes(size), torch.Generator().manual_seed(0)
    while True:
        for scan in scans:
            clean = scan[None, None]
            yield {"noisy": clean + NOISE * torch.randn(clean.shape, generator=draw), "clean": clean}


def volumes(size):
    """Two brain scans of 128 x 96 x 24 voxels, mean 0 and variance 1, the middle `size` of each."""
    import nibabel
    import numpy as np

    path = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"
    data = nibabel.load(path).get_fdata(dtype=np.float32)
    scans = torch.from_numpy(data).permute(3, 0, 1, 2)
    first = [(full - part) // 2 for full, part in zip(scans.shape[1:], size, strict=True)]
    window = tuple(slice(start, start + part) for start, part in zip(first, size, strict=True))
    scans = (scans - scans.mean()) / scans.std()
    return scans[(slice(None), *window)].contiguous()
