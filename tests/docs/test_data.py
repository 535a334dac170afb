"""docs/data.md: what its batches read on every rank is what that rank would be given of whole batches."""

import re
from pathlib import Path

import numpy as np
import torch

from autopar.ir.layout import Replicate, Shard
from autopar.runtime.data.input_part import input_part
from autopar.runtime.grid.planned_axis import PlannedAxis
from autopar.runtime.parameters.shards import view_part
from autopar.runtime.program.plan_reader import Description, TensorSpec

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
SHAPE = (3, 1, 16, 12)


def test_the_batches_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).standard_normal((9, *SHAPE[1:])).astype(np.float32)
    np.save("images.npy", images)
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    found = {}
    exec(code, found)
    items = tuple(TensorSpec(name, SHAPE, torch.float32, "input") for name in ("image", "label"))
    about = Description("net", "2x2", items, (), rows=3, batched=("image", "label"))
    layouts = [Shard(0), Shard(2)]
    whole = list(found["batches"](input_part([(about, {})], ())))
    assert torch.equal(torch.cat([batch["image"] for batch in whole]), torch.from_numpy(images))
    for row in range(2):
        for column in range(2):
            axes = [PlannedAxis("data", 2, row, None), PlannedAxis("space", 2, column, (0.0, 0.3, 1.0))]
            table = {"image": layouts, "label": [Replicate(), Shard(3)]}
            parts = list(found["batches"](input_part([(about, table)], axes)))
            assert len(parts) == len(whole) == 3
            for mine, batch in zip(parts, whole, strict=True):
                for name, how in table.items():
                    assert torch.equal(mine[name], view_part(batch[name], how, axes))
