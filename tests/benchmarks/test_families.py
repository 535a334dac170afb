"""The families' trial tells right, refused, and not built apart, and its table counts what it should. Libraries are not needed."""

from dataclasses import replace

import torch
from torch import nn

from benchmarks.compatibility import families
from benchmarks.compatibility import family_sources as sources
from benchmarks.compatibility import family_trial as trial


class Net(nn.Module):
    def __init__(self, reads=False):
        super().__init__()
        self.fc, self.reads = nn.Linear(6, 4), reads

    def forward(self, x):
        y = self.fc(x)
        return y.square().mean() if not self.reads or y.sum() > 0 else y.mean()


def test_a_family_is_right_refused_or_not_built():
    inputs = (torch.randn(4, 6),)

    def fails():
        raise OSError("no such model")

    made = {
        "right": lambda: sources.Subject(Net, inputs),
        "reads": lambda: sources.Subject(lambda: Net(reads=True), inputs),
        "fails": fails,
    }
    found = [one for name, make in made.items() for one in trial.attempt("timm", name, make, ["2", "3"])]
    assert [(one.family, one.grid, one.status) for one in found] == [
        ("right", "2", "ok"), ("right", "3", "ok"), ("reads", "2", "REFUSED"), ("reads", "3", "REFUSED"),
        ("fails", "2", "not built"), ("fails", "3", "not built"),
    ]  # fmt: skip
    assert all(one.split > 0 and one.seconds > 0 for one in found[:2])
    assert "depends on the values of a tensor" in found[2].message

    wrong = trial._judged(found[0], [trial.Deviation("SGD", "losses", 1e-3, "step 1", 1e-10)])
    rounded = trial._judged(found[0], [trial.Deviation("SGD", "losses", 1e-9, "step 1", 1e-8)])
    assert (wrong.status, rounded.status) == ("DIFFER", "rounding")

    text = "\n".join(families.section([*found, replace(wrong, family="wrong")], "today", 9))
    assert "4 of 9 families were tried." in text
    assert "| timm | 2 | 3 | 1 | 33.3% | 0 |" in text
    assert "- timm wrong, grid 2: losses 1.0e-03 at step 1" in text


def test_a_family_whose_process_dies_is_named():
    def dies():
        import os

        os._exit(3)

    ((one,),) = families.tried([("timm", "dies", dies)], ["2"], 60, 1)
    assert (one.status, one.message) == ("CRASH", "ended by 3")
