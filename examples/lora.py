"""LoRA by hand: a frozen MLP with low-rank adapters beside its layers (Hu et al., 2022, https://arxiv.org/abs/2106.09685).

The frozen base has no gradients to sum over ranks and no optimizer state: `torch.optim` is given what is trained, and only
that is saved by ``parallel.full_state_dict(trained_only=True)`` (docs/weights.md).
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

RANK, WIDTH, CLASSES, ROWS = 4, 64, 10, 16


class Adapted(nn.Module):
    """A frozen linear layer plus ``x A^T B^T``; B begins at zero, so that training begins from the base."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(RANK, base.in_features) / base.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(base.out_features, RANK))

    def forward(self, x: Tensor) -> Tensor:
        """The base's output with the adapter's added."""
        return self.base(x) + (x @ self.a.t()) @ self.b.t()


class Net(nn.Module):
    """Two adapted layers and a classification loss."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = Adapted(nn.Linear(WIDTH, 2 * WIDTH))
        self.out = Adapted(nn.Linear(2 * WIDTH, CLASSES))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """The mean cross entropy."""
        return nn.functional.cross_entropy(self.out(torch.relu(self.wide(x))), labels)


def model() -> Net:
    """The model."""
    return Net()


def example_inputs() -> dict[str, Tensor]:
    """A batch."""
    return next(batches())


def batches() -> Iterator[dict[str, Tensor]]:
    """Random batches."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(100):
        yield {
            "x": torch.randn(ROWS, WIDTH, generator=draw),
            "labels": torch.randint(0, CLASSES, (ROWS,), generator=draw),
        }


def optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Over what is trained."""
    return torch.optim.AdamW([one for one in parameters if one.requires_grad], lr=1e-3)
