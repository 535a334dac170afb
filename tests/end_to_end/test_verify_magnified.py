"""`verify` of a model that magnifies rounding: the gradient of a bias before a batch norm is zero but for rounding."""

from autopar.cli import main as autopar
from autopar.runtime import simulate
from autopar.runtime.verification.verify import main as verify

MODEL = """
import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, images, labels):
        x = F.silu(self.norm(self.conv(images)))
        return F.cross_entropy(self.head(x.mean((2, 3))), labels)


def model():
    return Net()


def example_inputs():
    return {"images": torch.randn(7, 3, 13, 11), "labels": torch.randint(5, (7,))}
"""


def test_a_bias_before_a_batch_norm(tmp_path, capsys):
    (tmp_path / "model.py").write_text(MODEL)
    build = tmp_path / "build"
    assert not autopar(["compile", str(tmp_path / "model.py"), "--grid", "3", "-o", str(build)])
    capsys.readouterr()
    simulate(3, lambda: verify([str(build)]))
    rows = [line for line in capsys.readouterr().out.splitlines() if "allowed" in line]
    assert len(rows) == 12
    assert all(row.startswith("ok ") for row in rows)
