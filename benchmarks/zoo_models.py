"""The model families of tests/zoo, and the examples among them, at sizes at which a step is work.

Small ones are as they stand in tests/zoo; large ones drop nothing out, so that losses can be compared. All draw their
batches at random, the same in every process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from autopar.model_file import load
from benchmarks.models import EVERY as OTHERS
from benchmarks.models import Model

ROOT = Path(__file__).resolve().parents[1]
PREFIX = "zoo_"  # of the names, since there are other models called gpt2 and so on
RATE = 1e-3
Sizes = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Family:
    """A model file of tests/zoo, the file of the large model (another one for an example), and the arguments that make it large."""

    small: Path
    large: Path
    model: Sizes = field(default_factory=dict)
    inputs: Sizes = field(default_factory=dict)


def _family(name: str, model: Sizes, inputs: Sizes) -> Family:
    path = ROOT / "tests" / "zoo" / "models" / f"zoo_{name}.py"
    return Family(path, path, model, inputs)


def _example(name: str, example: str = "") -> Family:
    return Family(ROOT / "tests" / "zoo" / "models" / f"zoo_{name}.py", ROOT / "examples" / f"{example or name}.py")


TEXT: Sizes = {"batch": 8, "tokens": 256, "vocabulary": 8192}
DEEP: Sizes = {"layers": 6, "width": 384, "heads": 6, "vocabulary": 8192}
PICTURE: Sizes = {"batch": 8, "size": 224}

FAMILIES = {
    "bert": _family("bert", {**DEEP, "inner": 1536, "tokens": 256, "dropout": 0.0}, TEXT),
    "convnext": _family(
        "convnext", {"widths": (48, 96, 192, 384), "depths": (2, 2, 4, 2), "size": 224, "patch": 4}, PICTURE
    ),
    "diffusion": _example("diffusion"),
    "fno": _example("fno"),
    "gpt2": _family("gpt2", {**DEEP, "tokens": 256, "dropout": 0.0}, TEXT),
    "llama": _family("llama", {**DEEP, "inner": 1024, "groups": 2}, TEXT),
    "lstm": _example("lstm"),
    "mixtral": _family("mixtral", {**DEEP, "layers": 4, "inner": 1024, "groups": 2, "experts": 8}, TEXT),
    "resnet": _family(
        "resnet", {"stem": 64, "widths": (256, 512, 1024), "depths": (2, 2, 2)}, {"batch": 8, "size": 128}
    ),
    "segformer": _family(
        "segformer",
        {"widths": (32, 64, 160, 256), "decoder": 256, "depth": 2, "dropout": 0.0},
        {"batch": 4, "size": 128},
    ),
    "swin": _family(
        "swin",
        {
            "width": 48,
            "depths": (2, 2, 4, 2),
            "heads": (2, 4, 8, 16),
            "size": 224,
            "patch": 4,
            "window": 7,
            "dropped": 0.0,
        },
        PICTURE,
    ),
    "t5": _family(
        "t5", {**DEEP, "layers": 4, "inner": 1536, "head_width": 64, "dropout": 0.0}, {**TEXT, "answer": 128}
    ),
    "unet3d": _example("unet3d", "unet"),
    "vit": _family("vit", {"layers": 6, "width": 384, "inner": 1536, "heads": 6, "size": 224, "patch": 16}, PICTURE),
    "whisper": _family(
        "whisper",
        {**DEEP, "layers": 3, "inner": 1536, "bands": 80, "frames": 400},
        {"batch": 8, "bands": 80, "frames": 400, "tokens": 100, "vocabulary": 8192},
    ),
}


def family(name: str, small: bool) -> Model:
    """The model and one batch of it."""
    kind = FAMILIES[name]
    file = load(kind.small if small else kind.large)
    make: Callable[..., Any] = file.model  # type: ignore[assignment]
    draw: Callable[..., Any] = file.batches  # type: ignore[assignment]
    model, sizes = ({}, {}) if small else (kind.model, kind.inputs)
    batch = next(draw(**sizes))
    title = f"{name}: " + ", ".join(f"{key} {' x '.join(map(str, tensor.shape))}" for key, tensor in batch.items())
    samples = next(iter(batch.values())).shape[0]
    return Model(PREFIX + name, title, samples, RATE, partial(make, **model), lambda: next(draw(**sizes)))


ZOO: dict[str, Callable[[bool], Model]] = {PREFIX + name: partial(family, name) for name in FAMILIES}
EVERY = OTHERS | ZOO
