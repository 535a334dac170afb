"""A picture of a live module and of torch's settings, to compare before and after: objects by identity, tensors by their bits."""

import logging
import random
import warnings

import numpy as np
import torch
from torch import Tensor, nn


def picture(module):
    """Everything that compiling must leave alone, by a name that says what it is. What is pictured is kept alive."""
    found = dict(settings())
    for path, part in module.named_modules(remove_duplicate=False):
        found[f"{path}: itself"] = (Same(part), type(part))
        for key, value in vars(part).items():
            found[f"{path}.{key}"] = _of(value)
    return found


def settings():
    """The state of random numbers, and how torch, warnings and logging are set."""
    yield "python's random numbers", random.getstate()
    yield "numpy's random numbers", tuple(map(str, np.random.get_state()))
    yield "torch's random numbers", bits(torch.get_rng_state())
    yield "dtype", torch.get_default_dtype()
    yield "device", torch.get_default_device()
    yield "gradients", (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled())
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    yield "deterministic", deterministic
    yield "threads", (torch.get_num_threads(), torch.get_num_interop_threads())
    yield "matmul", torch.get_float32_matmul_precision()
    yield "autocast", (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"))
    yield "compiling", (torch.compiler.is_compiling(), torch.compiler.is_exporting())
    yield "attention", (torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled())
    yield "warnings", tuple(map(str, warnings.filters))
    yield "logging", (logging.root.manager.disable, logging.root.level, tuple(map(Same, logging.root.handlers)))


def changes(before, after):
    """The names of what differs."""
    return [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]


class Same:
    """Equal where it is the very same object."""

    def __init__(self, one):
        self.one = one

    def __eq__(self, other):
        return self.one is other.one

    def __hash__(self):
        return id(self.one)

    def __repr__(self):
        return f"{type(self.one).__name__} at {id(self.one):x}"


def bits(tensor):
    """The tensor's numbers as they lie; NaN equals itself."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def _of(value):
    if isinstance(value, Tensor):
        flags = (value.requires_grad, value.dtype, value.device, value.shape, value.stride(), value._version)
        grad = _of(value.grad) if value.is_leaf and value.grad is not None else None
        return (Same(value), bits(value), flags, grad, _of(vars(value)))
    if isinstance(value, dict):
        return (Same(value), [(key, _of(one)) for key, one in value.items()])
    if isinstance(value, list | tuple | set):
        return (Same(value) if value else type(value), [_of(one) for one in value])
    if isinstance(value, torch.Generator):
        return bits(value.get_state())
    return value if isinstance(value, bool | int | float | str | None) else Same(value)


def odd():
    """A small module, live, with all that capture could be led to change."""
    torch.manual_seed(0)
    return Odd().double()


class Odd(nn.Module):
    """Registered twice, tied, parametrised, normed, hooked; it counts, caches and draws."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.again = self.first
        self.tied = nn.Linear(6, 6)
        self.tied.weight = self.first.weight
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)).eval()
        self.old = nn.utils.weight_norm(nn.Linear(6, 6)) if hasattr(nn.utils, "weight_norm") else nn.Linear(6, 6)
        self.blocks = nn.ModuleList([nn.Sequential(self.first, nn.BatchNorm1d(6)), nn.BatchNorm1d(6)])
        self.blocks[1].running_mean = self.blocks[0][1].running_mean
        self.blocks[0][1].eval()
        self.lstm = nn.LSTM(6, 6)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.drop = nn.Dropout(0.5).eval()
        self.register_buffer("scale", torch.ones(6))
        self.register_buffer("same_scale", self.scale)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_forward_hook(lambda *_: None)
        self.first.weight.grad = torch.ones(6, 6)
        self.first.weight.note = "mine"
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x):
        x = torch.tanh(self.again(x) + self.tied(x) + self.normed(x) + self.old(x) + self.spectral(x))
        for block in self.blocks:
            x = block(x)
        self.steps += 1
        x = self.frozen(self.lstm(x)[0]) * self.scale + self.same_scale
        return self.drop(x).square().mean()
