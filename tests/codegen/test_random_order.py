"""Random operators run in the model's order, whatever is written inside what."""

import re

import torch
import torch.nn.functional as F
from torch import nn

import autopar


class Crossed(nn.Module):
    """What is drawn first is read last."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x):
        first = F.dropout(self.fc(x), 0.1)
        second = F.dropout(x, 0.2)
        third = torch.rand(4, 6)
        fourth = F.dropout(x * 2, 0.4)
        return (third * (fourth - second) + first).square().sum()


def test_calls_that_draw_keep_their_order():
    one = autopar.compile(Crossed, {"x": torch.zeros(4, 6)}, grid="2", name="crossed")
    body = one.source.split("def forward")[1]
    assert re.findall(r"dropout\(.*?(0\.\d)|(rand)\(", body) == [("0.1", ""), ("0.2", ""), ("", "rand"), ("0.4", "")]
    assert body.count("dropout(") == 3
