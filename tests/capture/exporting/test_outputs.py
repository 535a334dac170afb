"""Whatever forward returns beside its loss and the outputs that were asked for is nobody's business."""

import dataclasses
from collections import namedtuple

import pytest
import torch
from capture_oracle import capture
from torch import nn

from autopar.errors import CaptureError

Pair = namedtuple("Pair", "loss cache")


class Cache:
    """Of a kind that nobody has told torch about; it holds tensors."""

    def __init__(self, *tensors):
        self.tensors = tensors


@dataclasses.dataclass
class Record:
    loss: torch.Tensor
    logits: torch.Tensor
    more: object


class Net(nn.Module):
    def __init__(self, returned):
        super().__init__()
        self.fc, self.returned = nn.Linear(3, 2), returned

    def forward(self, x):
        y = self.fc(x)
        return self.returned(y.square().mean(), y)


WAYS = {
    "dict": (lambda loss, y: {"loss": loss, "logits": y, "cache": Cache(y)}, "loss", "logits"),
    "tuple": (lambda loss, y: (loss, y, [Cache(y), {"deep": Cache(y)}]), "0", "1"),
    "named": (lambda loss, y: Pair(loss, Cache(y)), "loss", None),
    "record": (lambda loss, y: Record(loss, y, Cache(y)), "loss", "logits"),
    "nested": (lambda loss, y: {"out": Record(loss, y, {"cache": Cache(y)})}, "out.loss", "out.logits"),
}


@pytest.mark.parametrize("way", WAYS)
def test_caches_and_other_objects_are_left_out(way):
    returned, loss, logits = WAYS[way]
    net = Net(returned)
    asked = () if logits is None else (logits,)
    one = capture(net, (torch.ones(4, 3),), name="net", loss=None if loss in ("loss", "0") else loss, outputs=asked)
    assert one.graph.loss_path == loss
    assert tuple(path for path, _ in one.graph.outputs) == asked
    assert not net._forward_hooks


def test_one_that_was_asked_for_is_refused():
    with pytest.raises(CaptureError, match=r"(?s)not returned by forward.*by its key, field or index: loss, logits\n"):
        capture(Net(WAYS["dict"][0]), (torch.ones(4, 3),), name="net", outputs=("cache",))
