"""Starts a job that is made to fail, and sees what is left of it: processes are found by a word in their environment."""

import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import warm_launch
from compiled_folder import PROGRAM, write
from warm_ranks import found_by, warm

from autopar.jobs.launch import command

MARK = "AUTOPAR_FAULT_TEST"
SECONDS = 100
LAUNCH = "import sys; from pathlib import Path; from autopar.jobs.launch import launch; " \
         "sys.exit(launch(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))"  # fmt: skip

# The same model with copied parameters and the batch split, so that there are sums of gradients. Its hook runs before they
# begin (on `h`), or when they are under way (on `x`).
DATA_PARALLEL = """
import os, signal, sys, time
import torch
import torch.nn.functional as F
from autopar.runtime import Copied, Grid, Program, Replicate, Shard, all_sum, main

GRID = Grid("data=2")
DATA, = GRID.axes
INPUTS = {"x": [Shard(0)], "y": [Shard(0)]}
PARAMETERS = {"fc1.*": [Copied()], "fc2.*": [Copied()]}


def hook(gradient):
    FAULT


def forward(p, x, y):
    x.requires_grad_()
    h = torch.relu(F.linear(x * 1.0, p.fc1.weight, p.fc1.bias))
    TENSOR.register_hook(hook)
    return all_sum(((F.linear(h, p.fc2.weight, p.fc2.bias) - y) ** 2).sum() / 8, DATA)


PROGRAM = Program(GRID, forward, INPUTS, PARAMETERS)
if __name__ == "__main__":
    main(PROGRAM, __file__)
"""


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str
    left: list[str]

    @property
    def last(self):
        """The last block of what the user saw."""
        return self.err.strip().split("\n\n")[-1]


def in_forward(line):
    """The two-rank program with a line at the start of its forward."""
    return PROGRAM.replace("def forward(p, x, y):\n", f"def forward(p, x, y):\n    {line}\n").replace(
        "import torch\n", "import os, signal, sys, time\nimport torch\n", 1
    )


def in_backward(line, tensor):
    """The program with sums of gradients, with a line in the hook of this tensor."""
    return DATA_PARALLEL.replace("FAULT", line).replace("TENSOR", tensor)


def place(program, text):
    """Where this text stands in the program, as messages say it."""
    line = program[: program.index(text)].count("\n") + 1
    return f"build/program.py:{line}"


def start(folder, program, by="autopar", cold=False, **environment):
    """Begin a job of two ranks by `autopar run`'s launcher, or by mpiexec alone; with processes of its own if `cold`."""
    path = write(folder, program=program, changes={"grid": "data=2"} if "data=2" in program else None)
    if by == "autopar":
        line = [sys.executable, *(["-c", LAUNCH] if cold else [warm_launch.__file__]), str(path), "2"]
    else:
        line = command(path, 2) if cold else warm(command(path, 2))
    word = uuid.uuid4().hex
    variables = os.environ | {"OMP_NUM_THREADS": "1", MARK: word, "PYTHONUNBUFFERED": "1"} | found_by() | environment
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    hear = {"preexec_fn": _hear_interrupts}
    job = subprocess.Popen(line, **pipes, **hear, env=variables, cwd=folder)
    return job, word


def _hear_interrupts():
    """Also where the tests run in the background of a shell, which has its jobs ignore them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(job, word):
    """Wait for the end of a job; whatever does not end is killed and told."""
    try:
        out, err = job.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        processes(word, kill=True)
        out, err = job.communicate()
        raise AssertionError(f"the job did not end within {SECONDS} s\n{out}\n{err}") from None
    until = time.monotonic() + 5
    while processes(word) and time.monotonic() < until:
        time.sleep(0.05)
    return Ended(job.returncode, out, err, processes(word, kill=True))


def run(folder, program, by="autopar", cold=False, **environment):
    return finish(*start(folder, program, by, cold, **environment))


def interrupted(folder, program, number, by="autopar"):
    """Send the job's own process a signal once both ranks have printed that they are ready."""
    job, word = start(folder, program, by, cold=True)
    said = ""
    while said.count("ready") < 2 and (line := job.stdout.readline()):  # two ranks' words may come as one line
        said += line
    os.kill(job.pid, number)
    if by == "mpiexec":  # it passes the first on, which does not always reach the ranks, and ends them at the second
        try:
            job.wait(2)
        except subprocess.TimeoutExpired:
            os.kill(job.pid, number)
    return finish(job, word)


def processes(word, kill=False):
    """The processes that carry this word in their environment, zombies aside."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={word}".encode() in (folder / "environ").read_bytes():
                found.append(f"{folder.name}: {(folder / 'cmdline').read_text()}")
                if kill:
                    os.kill(int(folder.name), signal.SIGKILL)
        except OSError:
            continue
    return found
