"""torch.distributed.pipelining over gloo, as its tutorials use it: stage modules cut by hand, and one of its schedules.

GPT-2 is cut between its blocks. The embeddings are tied, which torch's pipelining knows nothing of: first and last stage
have a copy each, whose gradients this file sums once a step. Other models are traced and split at modules that are named.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleInterleaved1F1B, SplitPoint, pipeline

from benchmarks.contenders.gloo import meet
from benchmarks.models import Model, UNet, batch, seeded
from benchmarks.pipeline.division import Division

UNET_CUTS = ("net.down2", "net.bottom", "net.up1")  # where stages of the U-Net begin


class GPT2Stage(nn.Module):
    """Some blocks of a GPT-2 of transformers, with what stands before the first and behind the last."""

    def __init__(self, whole: Any, division: Division, stage: int) -> None:  # noqa: ANN401 (transformers' module)
        super().__init__()
        t = whole.transformer
        first, last = stage == 0, stage == division.stages - 1
        self.blocks = nn.ModuleList(t.h[i] for i in division.blocks(stage, len(t.h)))
        self.wte, self.wpe = (t.wte, t.wpe) if first else (None, None)
        self.norm, self.head = (t.ln_f, whole.lm_head) if last else (None, None)

    @property
    def tied(self) -> nn.Parameter | None:
        """The embedding, which is the weight of the head, too."""
        holder = self.wte or self.head
        return None if holder is None else holder.weight

    def forward(self, x: Tensor) -> Tensor:
        if self.wte is not None:
            assert self.wpe is not None
            x = self.wte(x) + self.wpe(torch.arange(x.shape[1]))
        for block in self.blocks:
            x = block(x)
        return x if self.head is None else self.head(self.norm(x))


class Prediction(nn.Module):
    """A U-Net without its loss, which torch's schedule computes."""

    def __init__(self, net: UNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net.predict(x)


def next_token(logits: Tensor, labels: Tensor) -> Tensor:
    """GPT-2's loss of one micro-batch."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


class Staged:
    """This rank's stages, under a schedule of torch's."""

    def __init__(self, model: Model, folder: str) -> None:
        self.division = Division.load(Path(folder))
        self.rank, _ = meet(folder, "staged")
        parts = batch(model).values()
        self.inputs, self.target = parts
        numbers = [i for i in range(self.division.stages) if self.division.rank(i) == self.rank]
        whole = seeded(model)
        if isinstance(whole, UNet):
            stages, loss = self._traced(whole, numbers), F.mse_loss
        else:
            stages, loss = self._by_hand(whole, numbers), next_token
        self.tied = [one.tied for one in (stage.submod for stage in stages) if isinstance(one, GPT2Stage)]
        self.tied = [one for one in self.tied if one is not None]
        ends = sorted({0, self.division.rank(self.division.stages - 1)})
        self.ends = dist.new_group(ends)
        self.first, self.last = 0 in numbers, self.division.stages - 1 in numbers
        if self.division.segments == 1:
            self.schedule: Any = Schedule1F1B(stages[0], self.division.microbatches, loss_fn=loss)
        else:
            self.schedule = ScheduleInterleaved1F1B(stages, self.division.microbatches, loss_fn=loss)
        self.optimizer = torch.optim.SGD([p for s in stages for p in s.submod.parameters()], lr=model.rate)

    def _by_hand(self, whole: nn.Module, numbers: list[int]) -> list[Any]:
        count = self.division.stages
        return [PipelineStage(GPT2Stage(whole, self.division, i), i, count, torch.device("cpu")) for i in numbers]

    def _traced(self, whole: UNet, numbers: list[int]) -> list[Any]:
        rows = self.inputs[: self.inputs.shape[0] // self.division.microbatches]
        traced = pipeline(Prediction(whole), (rows,), split_spec=dict.fromkeys(UNET_CUTS, SplitPoint.BEGINNING))
        return [traced.build_stage(i, torch.device("cpu")) for i in numbers]

    def step(self) -> float:
        self.optimizer.zero_grad()
        losses: list[Tensor] = []
        given = (self.inputs,) if self.first else ()
        asked = {"target": self.target, "losses": losses} if self.last else {}
        self.schedule.step(*given, **asked, return_outputs=False)
        for weight in self.tied:
            dist.all_reduce(weight.grad, group=self.ends)
        self.optimizer.step()
        loss = torch.stack(losses).mean().detach() if self.last else torch.zeros(())
        dist.broadcast(loss, self.division.rank(self.division.stages - 1))
        return loss.item()

    def close(self) -> None:
        dist.destroy_process_group()


def start(model: Model, folder: str) -> Staged:
    return Staged(model, folder)
