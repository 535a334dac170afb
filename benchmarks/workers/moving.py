"""One of two ranks that move a tenth of 64 MB of parameters with AdamW's state: bytes and seconds, as a line of JSON.

What is sent is counted below the runtime: messages, and what the ranks tell each other first. What changes owner is known from the
shapes of the parts before and after: one boundary moves one way, so one rank only receives.
"""

from __future__ import annotations

import json
import sys
import time
from statistics import median

import torch
from torch import Tensor

import autopar
from autopar.runtime.transport.base import Comm
from autopar.runtime.transport.forwarding import ForwardingComm
from benchmarks.models import MLP, Inputs, Model, batch, seeded

STEPS, MOVES = 5, 4


class CountingComm(ForwardingComm):
    """Counts what this rank sends."""

    def __init__(self, inner: Comm) -> None:
        super().__init__(inner)
        self.sent = 0

    def exchange(self, sends: dict[int, Tensor], recvs: dict[int, Tensor]) -> None:
        self.sent += sum(tensor.nbytes for tensor in sends.values())
        super().exchange(sends, recvs)

    def gather_objects(self, item: object) -> list[object]:
        self.sent += len(json.dumps(item))
        return super().gather_objects(item)


def main(size: str) -> None:
    torch.set_num_threads(1)
    width, samples = (64, 8) if size == "small" else (2048, 256)

    def inputs() -> Inputs:
        return {"x": torch.randn(samples, width), "y": torch.randn(samples, width)}

    model = Model("mlp", f"MLP, 4 x ({width} x {width})", samples, 1e-3, lambda: MLP(width), inputs)
    session = autopar.parallelize(seeded(model), batch(model), grid="2", plan="model")
    optimizer = torch.optim.AdamW(session.parameters())
    given = batch(model)

    def step() -> float:
        start = time.perf_counter()
        optimizer.zero_grad()
        session(**given).backward()
        optimizer.step()
        session.grid.comm.barrier()
        return time.perf_counter() - start

    steps = [step() for _ in range(STEPS)]
    session.grid.group = counting = CountingComm(session.grid.group)
    seconds, owned, sent = [], [], []
    for number in range(MOVES):
        optimizer.zero_grad()
        before, counting.sent = sum(one.numel() for one in session.parameters()), 0
        start = time.perf_counter()
        session.rebalance({"axis0": (0.0, 0.5 if number % 2 else 0.6, 1.0)}, optimizer)
        session.grid.comm.barrier()
        seconds.append(time.perf_counter() - start)
        gained = sum(one.numel() for one in session.parameters()) - before
        every = session.grid.comm.gather_objects([max(gained, 0), counting.sent])
        owned.append(sum(one[0] for one in every) * 3 * 4)  # type: ignore[index]
        sent.append(sum(one[1] for one in every))  # type: ignore[index]
        step()
    if session.grid.rank == 0:
        parameters = 4 * sum(one.numel() for one in seeded(model).parameters())
        over = max(a / b for a, b in zip(sent, owned, strict=True))
        found = {"parameter_bytes": parameters, "bytes_that_change_owner": owned[0], "sent_over_changed": over}
        print(json.dumps(found | {"move_seconds": median(seconds), "step_seconds": median(steps[1:])}))
    session.grid.comm.barrier()


if __name__ == "__main__":
    main(sys.argv[1])
