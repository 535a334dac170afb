"""One process of a contender: it builds its model, says so, and steps when it is told to.

Messages are JSON lines over a socket. The process says ``{"rank": r}`` once it is ready; ``{"steps": n}`` is answered
by ``{"times": [...], "losses": [...]}``: the clock before the first step and after each; ``{"peak": 1}`` by ``{"peak": [n]}``,
the most bytes of tensors that the process held through one step more. The end of the stream ends the process. Waiting for a
message takes no processor time, as waiting inside MPI would.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Mapping
from typing import TextIO

import torch

from autopar.runtime.process import load_optimizers
from autopar.runtime.profiling.memory_use import memory_use
from benchmarks.contenders import EVERY as CONTENDERS
from benchmarks.contenders import Trainer, start
from benchmarks.zoo_models import EVERY


def main(address: str, contender_name: str, model_name: str, size: str, folder: str) -> None:
    load_optimizers()  # nobody's steps are held up by a search for garbage
    contender = CONTENDERS[contender_name]
    torch.set_num_threads(contender.threads)
    trainer = start(contender, EVERY[model_name](size == "small"), folder)
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(address)
        with link.makefile("r") as commands, link.makefile("w") as answers:
            serve(trainer, commands, answers)
    trainer.close()


def serve(trainer: Trainer, commands: TextIO, answers: TextIO) -> None:
    say(answers, {"rank": trainer.rank})
    for line in commands:
        command = json.loads(line)
        say(answers, {"peak": [peak(trainer)]} if "peak" in command else steps(trainer, command["steps"]))


def steps(trainer: Trainer, count: int) -> dict[str, list[float]]:
    times, losses = [time.perf_counter()], []
    for _ in range(count):
        losses.append(trainer.step())
        times.append(time.perf_counter())
    return {"times": times, "losses": losses}


def peak(trainer: Trainer) -> int:
    with memory_use() as used:
        trainer.step()
    return used.peak


def say(answers: TextIO, message: Mapping[str, object]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
