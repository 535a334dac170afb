"""One small model of every family of timm, torchvision and transformers, as its library makes it, with inputs that suit it.

A family is a module of timm, a file of torchvision's models, or a model type of transformers. Nothing here is known of a family
by its name but what its library says of it: configurations are shrunk by the names of their fields, and the first of a few
sizes at which the library itself can run the model is taken. Drop-out is off, so that two runs can be compared. The names of
transformers' inputs follow from the task.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.compatibility.family_subject import (
    ROWS,
    Inputs,
    Subject,
    TowardsPattern,
    first_that_runs,
    torchvision_models,
    without_dropout,
)
from benchmarks.compatibility.family_transformers import transformers_families

# --- timm ----------------------------------------------------------------------------------------------------------------


def timm_families() -> dict[str, Callable[[], Subject]]:
    """By module of timm the model whose name promises the least work."""
    torchvision_models()  # timm imports it
    import timm

    small = ("atto", "femto", "pico", "nano", "tiny", "mini", "_18", "18", "xs", "xx", "b0", "s0", "t0", "small")

    def weight(name: str) -> tuple[bool, int, str]:
        return not any(word in name for word in small), len(name), name

    families = {}
    for module in timm.list_modules():
        names = timm.list_models(module=module)
        if names:
            families[module] = partial(_timm, min(names, key=weight))
    return families


def _timm(name: str) -> Subject:
    import timm

    def trials() -> Iterator[tuple[Callable[[], nn.Module], Inputs]]:
        for depth in ({}, {"depth": 2}, {"depths": (1, 1, 1, 1)}):
            for pixels, size in ((64, {"img_size": 64}), (96, {"img_size": 96}), (96, {}), (224, {}), (256, {})):
                make = partial(timm.create_model, name, num_classes=12, **size, **depth)
                yield partial(_towards_pattern, make), (torch.randn(ROWS, 3, pixels, pixels),)

    return first_that_runs(trials())


def _towards_pattern(make: Callable[[], nn.Module]) -> nn.Module:
    return TowardsPattern(without_dropout(make()))


# --- torchvision ---------------------------------------------------------------------------------------------------------


def torchvision_families() -> dict[str, Callable[[], Subject]]:
    """By file of torchvision's models the one with the fewest parameters; detectors, whose shapes follow their data, apart."""
    models = torchvision_models()
    names: dict[str, str] = {}
    for name in sorted(models.list_models(), key=lambda name: _parameters(models, name)):
        family = models.get_model_builder(name).__module__.removeprefix("torchvision.models.")
        if not family.startswith("detection"):
            names.setdefault(family, name)
    return {family: partial(_vision, name) for family, name in names.items()}


def _parameters(models: Any, name: str) -> int:  # noqa: ANN401 (a module)
    """How many parameters torchvision says that a model has."""
    return int(next(iter(models.get_model_weights(name))).meta["num_params"])


def _vision(name: str) -> Subject:
    builder = torchvision_models().get_model_builder(name)
    known = inspect.signature(builder).parameters
    plain = {key: None for key in ("weights", "weights_backbone") if key in known}

    def trials() -> Iterator[tuple[Callable[[], nn.Module], Inputs]]:
        for extra in ({"num_classes": 12}, {"num_classes": 12, "init_weights": False}, {}):
            make = partial(_towards_pattern, partial(builder, **plain, **extra))
            for shape in ((3, 64, 64), (3, 96, 96), (3, 224, 224), (3, 299, 299), (3, 16, 64, 64)):
                yield make, (torch.randn(ROWS, *shape),)
            yield make, (torch.randn(1, 3, 16, 224, 224),)  # of a fixed size: the memory of one row is enough
            yield make, (torch.randn(ROWS, 3, 128, 128), torch.randn(ROWS, 3, 128, 128))  # pairs of images

    return first_that_runs(trials())


SOURCES: dict[str, Callable[[], dict[str, Callable[[], Subject]]]] = {
    "timm": timm_families,
    "torchvision": torchvision_families,
    "transformers": transformers_families,
}
