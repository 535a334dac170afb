"""The models that are measured, each with one fixed batch; every contender builds them from here.

`MODELS` are the four of step_time.py. `SMOOTH` are those whose gradients do not jump (no ReLU, no maximum), so that
two runs in float32 stay as close as their rounding: for comparing parameters after many steps. `DIVIDED` are those of
benchmarks.pipeline, whose batches can be divided into micro-batches.

A model is a plain `nn.Module` whose output is the loss, or has it as `.loss`. The same seed gives every process the
same parameters and the same batch. `small` models have the same structure and take milliseconds: for tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SEED = 20261120

Inputs = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Model:
    """What is trained: a module and one batch, whose dim 0 holds `samples` samples.

    The rate is that of plain SGD, large enough that a wrong gradient shows in the next loss.
    """

    name: str
    title: str
    samples: int
    rate: float
    module: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]


def seeded(model: Model) -> nn.Module:
    """The module in training mode, with the same parameters in every process."""
    torch.manual_seed(SEED)
    return model.module().train()


def batch(model: Model) -> Inputs:
    torch.manual_seed(SEED + 1)
    return model.inputs()


def loss_of(output: object) -> Tensor:
    loss = output if isinstance(output, Tensor) else getattr(output, "loss", None)
    assert isinstance(loss, Tensor)
    return loss


def gpt2(small: bool) -> Model:
    return _gpt2("gpt2", *((2, 32, 4, 64, 4, 16) if small else (6, 384, 6, 8192, 8, 256)), rate=0.1)


def short_gpt2(small: bool) -> Model:
    """A smaller one with more samples of fewer tokens: a batch that can be cut finely.

    Its rate is one at which plain SGD is stable: at 0.01 any difference grows 2.4 times a step, from step 30 on.
    """
    return _gpt2("short_gpt2", *((2, 32, 4, 64, 8, 16) if small else (4, 256, 4, 4096, 32, 64)), rate=0.001)


def deep_gpt2(small: bool) -> Model:
    """One of eight blocks, for up to eight stages."""
    return _gpt2("deep_gpt2", *((8, 32, 4, 64, 8, 16) if small else (8, 384, 6, 4096, 16, 128)), rate=0.1)


def _gpt2(
    name: str, layers: int, width: int, heads: int, vocabulary: int, samples: int, tokens: int, rate: float
) -> Model:

    def module() -> nn.Module:
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(
            vocab_size=vocabulary,
            n_positions=tokens,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
            loss_type="ForCausalLM",
            use_cache=False,
        )
        return GPT2LMHeadModel(config)

    def inputs() -> Inputs:
        ids = torch.randint(vocabulary, (samples, tokens))
        return {"input_ids": ids, "labels": ids}

    title = f"GPT-2, {layers} layers, {width} wide, vocabulary {vocabulary}, batch {samples} x {tokens} tokens"
    return Model(name, title, samples, rate, module, inputs)


def resnet(small: bool) -> Model:
    widths, size, samples = ((8, 8, 16, 16), 32, 4) if small else ((64, 128, 256, 512), 128, 16)

    def module() -> nn.Module:
        from transformers import ResNetConfig, ResNetForImageClassification

        config = ResNetConfig(
            layer_type="basic", embedding_size=widths[0], hidden_sizes=list(widths), depths=[2, 2, 2, 2], num_labels=10
        )
        return ResNetForImageClassification(config)

    def inputs() -> Inputs:
        return {"pixel_values": torch.randn(samples, 3, size, size), "labels": torch.randint(10, (samples,))}

    return Model("resnet", f"ResNet-18 shape, 3 x {size} x {size}, batch {samples}", samples, 1e-3, module, inputs)


class MLP(nn.Module):
    """Four linear layers with ReLU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)
        self.fc3 = nn.Linear(width, width)
        self.fc4 = nn.Linear(width, width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = F.relu(self.fc1(x))
        h = F.relu(self.fc2(h))
        h = F.relu(self.fc3(h))
        return F.mse_loss(self.fc4(h), y)


def mlp(small: bool) -> Model:
    width, samples = (32, 4) if small else (4096, 32)

    def inputs() -> Inputs:
        return {"x": torch.randn(samples, width), "y": torch.randn(samples, width)}

    title = f"MLP, 4 x ({width} x {width}) ReLU, batch {samples}"
    return Model("mlp", title, samples, 1.0, lambda: MLP(width), inputs)


Activation = type[nn.ReLU] | type[nn.SiLU]


def block(inputs: int, outputs: int, activation: Activation) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm3d(outputs),
        activation(),
        nn.Conv3d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm3d(outputs),
        activation(),
    )


class UNet(nn.Module):
    """A 3-D U-Net of three levels with skip connections; a smooth one has SiLU and mean pooling."""

    def __init__(self, channels: int, smooth: bool) -> None:
        super().__init__()
        kind: Activation = nn.SiLU if smooth else nn.ReLU
        self.down1 = block(1, channels, kind)
        self.down2 = block(channels, 2 * channels, kind)
        self.bottom = block(2 * channels, 4 * channels, kind)
        self.rise2 = nn.ConvTranspose3d(4 * channels, 2 * channels, 2, stride=2)
        self.up2 = block(4 * channels, 2 * channels, kind)
        self.rise1 = nn.ConvTranspose3d(2 * channels, channels, 2, stride=2)
        self.up1 = block(2 * channels, channels, kind)
        self.head = nn.Conv3d(channels, 1, 1)
        self.pool = nn.AvgPool3d(2) if smooth else nn.MaxPool3d(2)

    def predict(self, x: Tensor) -> Tensor:
        """What it makes of a volume."""
        fine = self.down1(x)
        middle = self.down2(self.pool(fine))
        coarse = self.bottom(self.pool(middle))
        middle = self.up2(torch.cat([self.rise2(coarse), middle], dim=1))
        fine = self.up1(torch.cat([self.rise1(middle), fine], dim=1))
        prediction: Tensor = self.head(fine)
        return prediction

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(self.predict(x), y)


def unet(small: bool) -> Model:
    return _unet("unet", small, smooth=False, rate=0.1)


def smooth_unet(small: bool) -> Model:
    """The same with SiLU and mean pooling."""
    return _unet("smooth_unet", small, smooth=True, rate=0.01)


def group_unet(small: bool) -> Model:
    """A smooth one with group norm, and a batch of several volumes: it can be divided into micro-batches."""
    size, channels = (8, 2) if small else (32, 16)

    def module() -> nn.Module:
        net = UNet(channels, smooth=True)
        for part in [part for part in net.modules() if isinstance(part, nn.Sequential)]:
            for i, layer in enumerate(part):
                if isinstance(layer, nn.BatchNorm3d):
                    part[i] = nn.GroupNorm(2, layer.num_features)
        return net

    def inputs() -> Inputs:
        return {"x": torch.randn(8, 1, size, size, size), "y": torch.randn(8, 1, size, size, size)}

    title = f"3-D U-Net, group norm, SiLU and mean pooling, 8 volumes of {size}^3, {channels} base channels"
    return Model("group_unet", title, 8, 0.01, module, inputs)


def _unet(name: str, small: bool, smooth: bool, rate: float) -> Model:
    size, channels = (8, 2) if small else (64, 16)

    def inputs() -> Inputs:
        return {"x": torch.randn(1, 1, size, size, size), "y": torch.randn(1, 1, size, size, size)}

    title = f"3-D U-Net{', SiLU and mean pooling' if smooth else ''}, one {size}^3 volume, {channels} base channels"
    return Model(name, title, 1, rate, lambda: UNet(channels, smooth), inputs)


MODELS: dict[str, Callable[[bool], Model]] = {"gpt2": gpt2, "resnet": resnet, "mlp": mlp, "unet": unet}
SMOOTH: dict[str, Callable[[bool], Model]] = {"smooth_unet": smooth_unet, "short_gpt2": short_gpt2}
DIVIDED: dict[str, Callable[[bool], Model]] = {"deep_gpt2": deep_gpt2, "group_unet": group_unet}
EVERY = MODELS | SMOOTH | DIVIDED
