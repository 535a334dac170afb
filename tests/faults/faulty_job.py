"""Starts a job that is made to fail, and sees what is left of it: processes are found by a word in their environment."""

import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import msgspec
import warm_launch
from compiled_folder import PROGRAM, SHAPES, write
from warm_ranks import found_by, warm

from autopar.ir.pipeline.placement_plan import EdgePlan, PlacementPlan, SegmentPlan
from autopar.ir.pipeline.positions import PositionLimits, PositionLinks
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

# The same model divided over two positions, in two micro-batches.
DIVIDED = """
import os, signal, sys, time
import torch
import torch.nn.functional as F
from autopar.runtime import Grid, Pipeline, Program, Segment, main

GRID = Grid("stage:2")
INPUTS = {"x": [], "y": []}
PARAMETERS = {"fc1.*": [], "fc2.*": []}


def lower(p, x):
    h = torch.relu(F.linear(x, p.fc1.weight, p.fc1.bias))
    FAULT
    return h


def upper(p, h, y):
    return ((F.linear(h, p.fc2.weight, p.fc2.bias) - y) ** 2).sum() / 8


SEGMENTS = [Segment(lower, at=0, reads=["x"], writes=["h"]), Segment(upper, at=1, reads=["h", "y"], writes=["loss"])]
SCHEDULE = '''
0: F0.0 F0.1 B0.0 B0.1
1: F1.0 B1.0 F1.1 B1.1
'''
PROGRAM = Program(GRID, Pipeline(SEGMENTS, {"h": []}, SCHEDULE), INPUTS, PARAMETERS)
if __name__ == "__main__":
    main(PROGRAM, __file__)
"""
# The same, whose first segment moves to the other position after two steps; the fault is that of who sends.
MOVING = DIVIDED.replace("    FAULT\n", "").replace(
    "    main(PROGRAM, __file__)\n",
    """    from pathlib import Path
    from autopar.runtime.diagnostics.failure import reported
    from autopar.runtime.parameters.moving import between_positions
    from autopar.runtime.session import compiled_job

    def fault(*_):
        FAULT

    between_positions._joined = fault
    with reported(GRID.comm):
        parallel = compiled_job.parallel(compiled_job.open_job(PROGRAM, Path(__file__), 0), 0)
        optimizer = torch.optim.AdamW(parallel.parameters())
        for _ in range(2):
            optimizer.zero_grad()
            parallel(torch.ones(4, 3), torch.ones(4, 2)).backward()
            optimizer.step()
        parallel.move_segments({0: 1}, optimizer)
""",
)
# The same model on two replicas that draw four micro-batches from a queue.
QUEUED = """
import os, signal, sys, time
import torch
import torch.nn.functional as F
from autopar.runtime import Grid, Program, main

GRID = Grid("queue:2")
INPUTS = {"x": [], "y": []}
PARAMETERS = {"fc1.*": [], "fc2.*": []}
CALLS = []


def forward(p, x, y):
    CALLS.append(time.sleep(0.02))
    FAULT
    h = torch.relu(F.linear(x, p.fc1.weight, p.fc1.bias))
    return ((F.linear(h, p.fc2.weight, p.fc2.bias) - y) ** 2).sum() / 8


PROGRAM = Program(GRID, forward, INPUTS, PARAMETERS, microbatches=4)
if __name__ == "__main__":
    main(PROGRAM, __file__)
"""
# Boundaries move after two steps; the fault is met where rows are packed.
CUT = PROGRAM.replace("import torch\n", "import os, signal, sys, time\nimport torch\n", 1).replace(
    "    main(PROGRAM, __file__)\n",
    """    from pathlib import Path
    from autopar.runtime.diagnostics.failure import reported
    from autopar.runtime.parameters.moving import exchange
    from autopar.runtime.session import compiled_job

    packed = exchange._packed

    def fault(pieces):
        FAULT
        return packed(pieces)

    exchange._packed = fault
    with reported(GRID.comm):
        parallel = compiled_job.parallel(compiled_job.open_job(PROGRAM, Path(__file__), 0), 0)
        optimizer = torch.optim.AdamW(parallel.parameters())
        for share in (0.25, 0.75):
            optimizer.zero_grad()
            parallel(torch.ones(4, 3), torch.ones(4, 2)).backward()
            optimizer.step()
            parallel.rebalance({"axis0": (0.0, share, 1.0)}, optimizer)
""",
)
_EDGE = EdgePlan("h", (2, 5), "float32", (), (0,), True, 0, (1,), 40)
_LOSS = EdgePlan("loss", (), "float32", (), (), True, 1, (), 4)
_SEGMENTS = tuple(SegmentPlan(name, i, (), 1.0, 2.0, 0.0, 1.0, 0.0, 0) for i, name in enumerate(("lower", "upper")))
_NONE = (0.0, 0.0)
_PLACEMENT = PlacementPlan(
    "stage", 2, 2, _SEGMENTS, (_EDGE, _LOSS), (), (), 1.0, 1.0, 0.0, 1.0, _NONE, _NONE, _NONE,
    (PositionLimits(),) * 2, PositionLinks.uniform(2, 0.0, 0.0), (),
)  # fmt: skip
_DIVIDED_PLAN = {
    "grid": "stage:2",
    "batch": {"inputs": ["x", "y"], "rows": 4, "division": {"microbatches": 2, "rows": 2}},
    "placement": msgspec.to_builtins(_PLACEMENT),
    "parameters": [
        {"name": name, "shape": shape, "dtype": "float32", "segments": [int(name.startswith("fc2"))]}
        for name, shape in SHAPES.items()
    ],
}


_PLANS = {
    "data=2": {"grid": "data=2"},
    "stage:2": _DIVIDED_PLAN,
    "queue:2": {
        "grid": "queue:2",
        "batch": {"inputs": ["x", "y"], "rows": 4, "division": {"microbatches": 4, "rows": 1}},
    },
}


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
    changes = next((changes for grid, changes in _PLANS.items() if grid in program), None)
    path = write(folder, program=program, changes=changes)
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
    try:  # the first asks to stop after the step; the second ends what is in no step that ends
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
