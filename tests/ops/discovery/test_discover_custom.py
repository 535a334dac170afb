"""A model with operators that only the user knows, registered with torch.library: from compiling it to running on ranks."""

import copy

import pytest
import torch
import torch.nn.functional as F
from compiling import QUICK, run
from torch import nn

import autopar
from autopar.analysis.fallbacks import discovered, unruled, unruled_share
from autopar.ops.discovery import discover


@torch.library.custom_op("mine::gate", mutates_args=())
def gate(x: torch.Tensor, scale: torch.Tensor, width: int) -> torch.Tensor:
    """Rows of a width that is checked, times a sigmoid."""
    assert x.shape[-1] == width
    return x * torch.sigmoid(scale)


@gate.register_fake
def _(x, scale, width):
    return torch.empty_like(x)


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:2])


def _back(ctx, gradient):
    x, scale = ctx.saved_tensors
    s = torch.sigmoid(scale)
    return gradient * s, (gradient * x).flatten(0, -2).sum(0) * s * (1 - s), None


gate.register_autograd(_back, setup_context=_keep)


@torch.library.custom_op("mine::centre", mutates_args=())
def centre(x: torch.Tensor) -> torch.Tensor:
    """All rows less their mean: no dim of it can be split."""
    return x - x.mean()


centre.register_fake(torch.empty_like)
centre.register_autograd(lambda ctx, gradient: gradient - gradient.mean())


class Net(nn.Module):
    """A gated layer, then rows about their common mean."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(12, 18), nn.Linear(18, 6)
        self.scale = nn.Parameter(torch.linspace(-1, 1, 18))

    def forward(self, x):
        h = gate(self.a(x), self.scale, 18)
        return F.relu(centre(self.b(h))).square().mean()


@pytest.fixture(scope="module")
def compiled():
    """On two ranks, the gate split over its columns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOPAR_CACHE", "off")
        told = []
        one = autopar.compile(
            Net,
            {"x": torch.ones(8, 12)},
            grid="2",
            pin=["gate: b@axis0"],
            machine=QUICK,
            name="net",
            progress=lambda *text: told.append(text[:2]),
        )
        yield one, told


def test_letters_are_found_and_told(compiled):
    one, told = compiled
    assert ("discovered", "mine.gate: a b, b -> a b") in told
    assert ("discovered", "mine.centre: runs whole: no dim of it can be split") in told
    (node,) = [node for node in one.plan.nodes if node.target == "mine.gate.default"]
    assert node.ruled
    assert node.choices[0].letter == "b"
    assert node.letters == "discovered: a b, b -> a b"
    assert [(one.target, one.letters, one.calls) for one in discovered(one.plan)] == [
        ("mine.gate.default", "a b, b -> a b", 1)
    ]


def test_the_share_that_runs_whole(compiled):
    one, _ = compiled
    total = sum(node.seconds_forward + node.seconds_backward for node in one.plan.nodes)
    (whole,) = unruled(one.plan)
    (node,) = [node for node in one.plan.nodes if node.target == "mine.centre.default"]
    assert (whole.target, whole.calls) == ("mine.centre.default", 1)
    assert whole.seconds == pytest.approx(node.seconds_forward + node.seconds_backward)
    assert unruled_share(one.plan) == whole.share == pytest.approx(whole.seconds / total)
    assert 0 < whole.share < 1


def test_sizes_in_the_program_are_local(compiled):
    one, _ = compiled
    (line,) = [line for line in one.source.splitlines() if "mine.gate" in line]
    assert "torch.ops.mine.gate(" in line
    assert "AXIS0.part(18))" in line
    calls = one.built.calls
    assert discover.is_discovered(next(item.op for item in calls.values() if "gate" in item.node.target))


@pytest.mark.parametrize("cuts", [None, {"axis0": (0.0, 0.3, 1.0)}, {"axis0": (0.0, 0.0, 1.0)}])
def test_ranks_compute_what_the_model_computes(compiled, cuts):
    one, _ = compiled
    torch.manual_seed(2)
    model, x = Net().double(), torch.randn(8, 12, dtype=torch.float64)
    start = copy.deepcopy(model)
    loss = model(x)
    loss.backward()
    for found, gradients, _ in run(one, start, {"x": x}, cuts):
        torch.testing.assert_close(found, loss.detach(), rtol=1e-12, atol=0)
        for name, value in model.named_parameters():
            torch.testing.assert_close(gradients[name], value.grad, rtol=1e-10, atol=1e-12)


def test_a_model_on_meta_is_discovered_at_small_shapes():
    """Rows and columns by the ten thousand: nothing of that size is ever made."""

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(40_000))

        def forward(self, x):
            return gate(x, self.scale, 40_000).sum()

    one = autopar.compile(Wide, {"x": torch.empty(60_000, 40_000, device="meta")}, grid="2", name="wide", memory="1TB")
    (found,) = discovered(one.plan)
    assert found.letters == "a b, b -> a b"
