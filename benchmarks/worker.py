"""One process of a contender: it builds its model, says so, and steps when it is told to.

Messages are JSON lines over a socket. The process says ``{"rank": r}`` once it is ready; ``{"steps": n}`` is answered
by ``{"times": [...], "losses": [...]}``: the clock before the first step and after each. The end of the stream ends the
process. Waiting for a message takes no processor time, as waiting inside MPI would.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from typing import TextIO

import torch

from contenders import BALANCED, CONTENDERS, Trainer, start
from zoo_models import EVERY


def main(address: str, contender_name: str, model_name: str, size: str, folder: str) -> None:
    contender = CONTENDERS.get(contender_name, BALANCED)
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
        times, losses = [time.perf_counter()], []
        for _ in range(json.loads(line)["steps"]):
            losses.append(trainer.step())
            times.append(time.perf_counter())
        say(answers, {"times": times, "losses": losses})


def say(answers: TextIO, message: dict[str, object]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
