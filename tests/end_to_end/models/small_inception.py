"""Parallel branches between joins, and dropout before the head."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, BRANCH = 8, 4


class Branches(nn.Module):
    """Four ways of different depth side by side, joined to the width that came in."""

    def __init__(self) -> None:
        super().__init__()
        deep = nn.Sequential(
            nn.Conv2d(WIDTH, BRANCH, 1), nn.GroupNorm(2, BRANCH), nn.Conv2d(BRANCH, BRANCH, 3, padding=1)
        )
        plain = [nn.Conv2d(WIDTH, BRANCH, size, padding=size // 2) for size in (1, 3, 5)]
        self.branches = nn.ModuleList([*plain, deep])
        self.mix = nn.Conv2d(4 * BRANCH, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images [batch, 8, height, width] as they come in, plus what the branches find."""
        return x + F.relu(self.mix(torch.cat([F.relu(branch(x)) for branch in self.branches], 1)))


class Inception(nn.Module):
    """A stem, two groups of branches, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.groups = nn.ModuleList([Branches(), Branches()])
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of images [batch, 3, height, width] with labels [batch]."""
        x = self.stem(images)
        for group in self.groups:
            x = group(x)
        return F.cross_entropy(self.head(self.drop(x.mean((2, 3)))), labels)


def model() -> nn.Module:
    """A new one."""
    return Inception()


def example_inputs() -> dict[str, Tensor]:
    """Seven images."""
    draw = torch.Generator().manual_seed(1)
    return {
        "images": torch.randn(7, 3, 12, 12, generator=draw),
        "labels": torch.randint(0, 10, (7,), generator=draw),
    }
