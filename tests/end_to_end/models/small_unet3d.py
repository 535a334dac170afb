"""A U-Net for batches of volumes, with group norm and skip connections across all of its depth."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """A convolution, a group norm, a ReLU."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(before, after, 3, padding=1)
        self.norm = nn.GroupNorm(2, after)

    def forward(self, x: Tensor) -> Tensor:
        """Volumes [batch, channels, depth, height, width] in, the same with other channels out."""
        return F.relu(self.norm(self.conv(x)))


class UNet3d(nn.Module):
    """Two levels down, two up."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([Block(1, 4), Block(4, 8)])
        self.middle = Block(8, 8)
        self.widen = nn.ModuleList([nn.ConvTranspose3d(8, 8, 2, stride=2), nn.ConvTranspose3d(4, 4, 2, stride=2)])
        self.up = nn.ModuleList([Block(16, 4), Block(8, 4)])
        self.out = nn.Conv3d(4, 3, 1)

    def forward(self, volumes: Tensor, labels: Tensor) -> Tensor:
        """The loss of volumes [batch, 1, 8, 8, 8] with labels [batch, 8, 8, 8]; label 2 does not count."""
        first = self.down[0](volumes)
        second = self.down[1](F.max_pool3d(first, 2))
        x = self.middle(F.max_pool3d(second, 2))
        for widen, up, skip in zip(self.widen, self.up, (second, first), strict=True):
            x = up(torch.cat([widen(x), skip], 1))
        return F.cross_entropy(self.out(x), labels, ignore_index=2)


def model() -> nn.Module:
    """A new one."""
    return UNet3d()


def example_inputs() -> dict[str, Tensor]:
    """Five volumes."""
    draw = torch.Generator().manual_seed(1)
    return {
        "volumes": torch.randn(5, 1, 8, 8, 8, generator=draw),
        "labels": torch.randint(0, 3, (5, 8, 8, 8), generator=draw),
    }
