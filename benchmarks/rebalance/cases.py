"""The models whose ranks are slowed, each with the plan that splits it over the axes that are to move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from autopar.model_file import load
from benchmarks.models import Inputs, Model, deep_gpt2, gpt2, resnet, short_gpt2, smooth_unet
from benchmarks.zoo_models import FAMILIES

_SKEW = (2.0, 1.5, 1.25, 1.0, 1.0, 0.75, 0.5, 0.5)  # of routing weights: the first three experts get half of the tokens


@dataclass(frozen=True, slots=True)
class SlowedCase:
    """A model, and how it is compiled: the grid, a fixed plan or ``auto``, pins; segments per position and micro-batches."""

    title: str
    model: Callable[[bool], Model]
    grid: str = "2"
    plan: str = "auto"
    pins: tuple[str, ...] = ()
    segments: int | None = None
    microbatches: int | None = None

    @property
    def ranks(self) -> int:
        """How many ranks the grid has."""
        return 4 if "," in self.grid else 2


def skewed_experts(small: bool) -> Model:
    """A Mixtral of two layers whose router sends half of the tokens to three of eight experts."""
    kind = FAMILIES["mixtral"]
    file, sizes = load(kind.large), ({}, {}) if small else (kind.model | {"layers": 2}, kind.inputs)
    make: Callable[..., nn.Module] = file.model  # type: ignore[assignment]
    draw: Callable[..., Iterator[Inputs]] = file.batches  # type: ignore[assignment]

    def module() -> nn.Module:
        made = make(**sizes[0])
        with torch.no_grad():
            for name, weight in made.named_parameters():
                if name.endswith("gate.weight"):
                    weight.mul_(torch.tensor(_SKEW[: len(weight)]).unsqueeze(1))
        return made

    title = "Mixtral, 2 layers, 8 experts, skewed routing"
    return Model("skewed_experts", title, 8, 1e-3, module, lambda: next(draw(**sizes[1])))


CASES = {
    "gpt2-batch": SlowedCase("GPT-2 by batch", short_gpt2, plan="data"),
    "gpt2-features": SlowedCase("GPT-2 by heads and features", gpt2, plan="megatron"),
    "gpt2-2x2": SlowedCase("GPT-2 by batch, heads and features", gpt2, "data=2,model=2", "megatron"),
    "unet-rows": SlowedCase("U-Net by rows", smooth_unet, plan="domain"),
    "resnet-channels": SlowedCase("ResNet by channels", resnet, plan="model"),
    "zero": SlowedCase("GPT-2 by batch, parameters in parts (ZeRO)", short_gpt2, plan="zero"),
    "pipeline": SlowedCase("GPT-2 in segments", deep_gpt2, "stage:2", segments=3, microbatches=8),
    "experts": SlowedCase("Mixtral by experts, skewed routing", skewed_experts, pins=("*experts*: e@axis0",)),
}
