"""What a queue of micro-batches asks of a plan: a batch that is divided into some."""

from __future__ import annotations

from autopar.errors import ConfigError, refusal
from autopar.ir.grid import GridShape


def check_queue(grid: GridShape, microbatches: int) -> None:
    """Raise ConfigError where the replicas of a queue have no micro-batches to draw."""
    if grid.queue and microbatches < 2:
        given = f"{microbatches} micro-batch of a batch, and {grid.replicas} replicas to compute it"
        rule = f"the replicas of {grid.queue.name} draw the micro-batches of a batch from a queue"
        fix = "leave --microbatches out, or take several for each replica; a batch of one row is for a grid without a queue"
        raise ConfigError(refusal(f"grid {grid}", given, rule, fix=fix))
