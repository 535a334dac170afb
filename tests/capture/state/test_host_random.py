"""Numbers that Python or numpy draws in forward are never frozen in silence: the line is named; those that do not matter pass."""

import inspect
import random

import numpy as np
import pytest
import torch
from capture_oracle import capture
from capture_refused import Net, refused


class Scalar(Net):
    def forward(self, x):
        return (self.fc(x) * random.random()).square().mean()


class Mask(Net):
    def forward(self, x):
        mask = torch.from_numpy(np.random.rand(4) < 0.5)
        return self.fc(x).masked_fill(mask, 0.0).square().mean()


class Branch(Net):
    def forward(self, x):
        y = self.fc(x)
        if random.random() < 0.5:
            y = y.relu()
        return y.square().mean()


class Rolled(Net):
    def forward(self, x):
        return self.fc(x.roll(np.random.randint(1, 1000), 1) * self.table).square().mean() * np.random.uniform(1, 2)


class Held(Net):
    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(0)


class Generator(Held):
    def forward(self, x):
        return (self.fc(x) * self.rng.uniform(1, 2)).square().mean()


class Inside(Net):
    def __init__(self):
        super().__init__()
        self.options = {"draw": [random.Random(0)]}

    def forward(self, x):
        return (self.fc(x) * self.options["draw"][0].random()).square().mean()


RNG = np.random.RandomState(3)


class InItsFile(Net):
    def forward(self, x):
        return (self.fc(x) + RNG.rand()).square().mean()


@pytest.mark.parametrize(
    ("model", "code"),
    [
        (Generator, "self.rng.uniform"),
        (Inside, "self.options"),
        (InItsFile, "RNG.rand"),
        (Scalar, "random.random()"),
        (Mask, "masked_fill"),
        (Branch, "square()"),
        (Rolled, "x.roll"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_a_number_of_another_generator_is_refused(model, code):
    random.seed(1)
    np.random.seed(1)
    states = random.getstate(), np.random.get_state()[1].tobytes(), RNG.get_state()[1:3]
    made = model()
    held = [made.rng.bit_generator.state] if model is Generator else []
    text = refused(lambda: made, live=True)
    assert held == ([made.rng.bit_generator.state] if held else [])
    assert "draws from Python's or numpy's random generator" in text
    if model is not Branch:  # which of the two is captured first is chance
        (line,) = [line.strip() for line in inspect.getsource(model).splitlines() if code in line][-1:]
        assert line.removeprefix("return ")[:20] in text
    assert str(states) == str((random.getstate(), np.random.get_state()[1].tobytes(), RNG.get_state()[1:3]))


class NeverDropped(Held):
    def forward(self, x):
        y = self.fc(x) if self.rng.random() < 2 else x
        return (y if random.random() < 0.0 or np.random.rand() > 2 else y.relu()).square().mean()


def test_a_number_that_does_not_matter_passes():
    assert capture(NeverDropped, {"x": torch.ones(6, 4)}, name="net").graph.nodes
