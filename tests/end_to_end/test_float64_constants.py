"""Numbers that a model makes by itself are the same bits in a float64 run of the model and of its program.

One model holds them all, each with a weight of its own, whose gradient tells which of them differs.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compiling import QUICK
from shared_captures import these_rows
from torch import nn

import autopar
from autopar.ir.plan_file import to_json
from autopar.runtime import simulate
from autopar.runtime.parameters.deferred_init import module_values
from autopar.runtime.parameters.precision import module_in_precision
from autopar.runtime.program.plan_reader import parse_description
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.verification.force_float64 import ForceFloat64, as_written

N = 6
MADE = {  # six numbers each, from x [row, 6], whose dtype is the run's
    "linspace": lambda x: torch.linspace(-0.3, 0.7, N),
    "linspace in the dtype of x": lambda x: torch.linspace(0, 1, N, dtype=x.dtype),
    "linspace in float32": lambda x: torch.linspace(0, 1, N, dtype=torch.float32),
    "logspace": lambda x: torch.logspace(0.1, 1, N),
    "linspace computed with": lambda x: torch.sin(torch.linspace(0, math.pi, N, dtype=x.dtype)),
    "read by index": lambda x: torch.linspace(0, 1, 10)[torch.arange(N)],
    "cumulated": lambda x: torch.linspace(1e-4, 0.02, 100).cumsum(0)[:N],
    "arange with steps": lambda x: torch.arange(0.1, 1.8, 0.3),
    "arange with steps in the dtype of x": lambda x: torch.arange(0.1, 1.8, 0.3, dtype=x.dtype) * 0.1,
    "arange times a float": lambda x: torch.arange(N) * 0.1,
    "arange cast": lambda x: 1 / 10000 ** (torch.arange(0, 2 * N, 2, dtype=torch.int64).float() / (2 * N)),
    "arange divided": lambda x: torch.arange(N) / 7,
    "arange exponentiated": lambda x: torch.exp(torch.arange(N) * -(math.log(10000.0) / N)),
    "a mean of whole numbers": lambda x: (torch.arange(N) / 7).mean().expand(N),
    "a mask times a float": lambda x: (torch.arange(N) > 2) * 0.1,
    "full": lambda x: torch.full((N,), 0.1).cumsum(0),
    "full in the dtype of x": lambda x: torch.full((N,), 0.1, dtype=x.dtype) / 3,
    "full in float64": lambda x: torch.full((N,), 0.1, dtype=torch.float64) / 3,
    "full_like": lambda x: torch.full_like(x[0], 0.1) / 3,
    "new_full": lambda x: x.new_full((N,), 0.1) / 3,
    "new_tensor": lambda x: x.new_tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
    "filled": lambda x: torch.empty(N).fill_(0.1),
    "numbers": lambda x: torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) / torch.tensor(7.0),
    "numbers in the dtype of x": lambda x: torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], dtype=x.dtype) / 3,
    "numbers in float64": lambda x: torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], dtype=torch.float64) / 3,
    "numbers in bfloat16": lambda x: torch.tensor([0.1] * N, dtype=torch.bfloat16).float() / 3,
    "one number": lambda x: torch.tensor(2.0) ** 0.3,
    "scalar_tensor": lambda x: torch.scalar_tensor(0.1),
    "python's number": lambda x: x[0] * 0 + 0.1 / 3,
    "from numpy": lambda x: torch.from_numpy(np.linspace(0, 1, N).astype("float32")) / 3,
    "eye": lambda x: torch.eye(N)[1] * 0.1,
    "a triangle": lambda x: torch.full((N, N), 0.1).tril()[3],
    "hann": lambda x: torch.hann_window(N),
    "hann in the dtype of x": lambda x: torch.hann_window(N, dtype=x.dtype),
    "kaiser": lambda x: torch.kaiser_window(N),
    "bartlett": lambda x: torch.bartlett_window(N),
    "frequencies": lambda x: torch.fft.fftfreq(N, 0.3),
    "quantile": lambda x: torch.quantile(x, 0.3, 0),
    "two quantiles": lambda x: torch.quantile(x, torch.tensor([0.3, 0.77], dtype=x.dtype), 0)[1],
    "chosen by a mask": lambda x: torch.where(torch.arange(N) > 2, 0.1, 0.3),
    "chosen by x": lambda x: torch.where(x > 0, 0.1, 0.2),
    "clamped": lambda x: x.clamp(0.1, 0.7),
    "interpolated": lambda x: F.interpolate(x[None], scale_factor=1.7, mode="linear")[0][:, :N],
    "a grid": lambda x: F.affine_grid(torch.eye(2, 3)[None] * 0.3, (1, 1, 3, 2), align_corners=False).view(2, N)[0],
}
HELD = ("a tensor of the model's", "a buffer of the model's")


class Constants(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.rand(()) + 0.5 for _ in (*MADE, *HELD))
        self.register_buffer("kept", torch.linspace(0, 1, N) * 0.1)
        self.plain = torch.linspace(0, 1, N) * 0.3

    def forward(self, x, t):
        found = sum(weight * made(x) for weight, made in zip(self.weights[: len(MADE)], MADE.values(), strict=True))
        held = self.weights[-2] * self.plain / 7 + self.weights[-1] * self.kept
        return ((found + held) * (t * t + 1)).mean()


@pytest.fixture(scope="module")
def gradients():
    """Of the model and of its program on two ranks, in float64."""
    torch.manual_seed(0)
    model, inputs = Constants(), {"x": torch.randn(8, N), "t": torch.randn(8, N)}
    with these_rows():
        one = autopar.compile(lambda: model, inputs, grid="2", machine=QUICK, name="constants")
    description = parse_description(to_json(one.plan), "plan.json")
    known = {name for item in description.parameters for name in (item.name, *item.aliases)}
    values = [*one.constants.items(), *(pair for pair in module_values(model) if pair[0] in known)]
    code, wide = compile(one.source, "program.py", "exec"), {key: value.double() for key, value in inputs.items()}

    def rank():
        names = {"__name__": "program"}
        exec(code, names)
        parallel = Parallel(names["PROGRAM"], description, as_written(values), dtype=torch.float64)
        with ForceFloat64():
            parallel(**wide).backward()
        return parallel.full_gradients()

    found = simulate(2, rank)[0]
    module_in_precision(model, torch.float64)
    with ForceFloat64(written=True):
        model(**wide).backward()
    return found, {name: value.grad for name, value in model.named_parameters()}


@pytest.mark.parametrize("place", range(len(MADE) + len(HELD)), ids=[*MADE, *HELD])
def test_the_program_has_the_models_numbers(gradients, place):
    found, expected = (one[f"weights.{place}"] for one in gradients)
    assert abs(found - expected) <= 1e-12 * abs(expected)
