"""Drop path is recognised where it is written out, and left as it is where it is something else."""

import pytest
import torch
from capture_oracle import capture
from torch import nn


class Path(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.fc, self.way = nn.Linear(6, 6), way

    def forward(self, x):
        y = self.fc(x)
        return (x + (self.way(y) if self.training else y)).square().sum()


def as_in_transformers(y):
    kept = 0.7 + torch.rand((y.shape[0], 1, 1), dtype=y.dtype)
    kept.floor_()
    return y.div(0.7) * kept


def the_other_way_round(y):
    return torch.floor(torch.rand(y.shape[0], 1, 1) + 0.7) * (y / 0.7)


def per_token(y):
    return y.div(0.7) * torch.floor(0.7 + torch.rand((y.shape[0], y.shape[1], 1)))


def unlike_scale(y):
    return y.div(0.8) * torch.floor(0.7 + torch.rand((y.shape[0], 1, 1)))


def captured(way):
    one = capture(Path(way), {"x": torch.zeros(4, 3, 6)}, name="path")
    return [node.target for node in one.graph.nodes], one.evaluation


@pytest.mark.parametrize("way", [as_in_transformers, the_other_way_round])
def test_it_is_one_operator(way):
    targets, evaluation = captured(way)
    assert targets.count("autopar.drop_path") == 1
    assert not [target for target in targets if "rand" in target or "floor" in target]
    assert evaluation == ""


@pytest.mark.parametrize("way", [per_token, unlike_scale])
def test_anything_else_stays(way):
    targets, evaluation = captured(way)
    assert "autopar.drop_path" not in targets
    assert "aten.rand.default" in targets
    assert "in training" in evaluation
