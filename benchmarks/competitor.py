"""A competitor that takes half of a core, whatever else runs there: ``python -m benchmarks.competitor CORE``.

A process that merely spins there does not. The kernel gives a process that has slept, as a rank does while it waits for
messages, more than half of a core that it shares with one of equal priority; the rank's speed is then neither 0.5 nor one
number, since it changes with how long the rank waits, and so with the cuts that are to be judged. This competitor is busy
for the first half of every period and sleeps for the second, as a real-time process, which runs whenever it wants to: work
beside it has 0.5 of the core's time, whether it waits or not. Periods are short beside the pieces of work between messages. (A
mere `nice` would not do: ranks of an MPI job are sessions of their own, and the kernel's autogroups share a core equally.)

Who may not be a real-time process has the ranks lower their priority (`make_way`), which does about the same. `Competitor.end`
gives the share of the core that was really taken, by the competitor's processor time: it is printed with the figures.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

SHARE = 0.5
PERIOD = 2e-3  # seconds; shorter ones cost the work beside it the changes between the two
_LONGEST = 0.75  # of a period, to make up for what the last one lacked
_LOWEST = 19  # priority
_OWN_GROUP = Path("/proc/self/autogroup")


class Competitor:
    """A running competitor on one core."""

    def __init__(self, core: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.competitor", str(core)], stdout=subprocess.PIPE
        )
        assert self._process.stdout
        self._process.stdout.readline()  # it has begun

    def end(self) -> float:
        """End it; the share of the core that it had."""
        self._process.terminate()
        said, _ = self._process.communicate()
        return float(said)


def make_way() -> None:
    """Let a competitor have the core whenever it wants to, if it may not be a real-time process."""
    if not _real_time():
        os.setpriority(os.PRIO_PROCESS, 0, _LOWEST)
        with suppress(OSError):
            _OWN_GROUP.write_text(str(_LOWEST))
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def speed_beside(core: int) -> tuple[float, float]:
    """The speed that products of matrices have beside a competitor over theirs alone, and the share that the competitor had.

    It is a little less than what the competitor leaves: after each of its turns the work finds caches and vector units cold.
    """
    said = subprocess.run(
        [sys.executable, "-m", "benchmarks.workers.beside", str(core)], capture_output=True, check=True, text=True
    )
    speed, share = map(float, said.stdout.split())
    return speed, share


def _real_time() -> bool:
    """Become a real-time process, if that is allowed."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        return False
    return True


def main(core: str) -> None:
    """Take the share, until a signal ends this; then say what was taken."""
    os.sched_setaffinity(0, {int(core)})
    _real_time()
    start, used = time.perf_counter(), time.process_time()

    def end(signal_number: int, frame: FrameType | None) -> None:
        print((time.process_time() - used) / (time.perf_counter() - start), flush=True)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    print("begun", flush=True)
    due = start
    while True:
        due += PERIOD
        enough, latest = used + SHARE * (due - start), due - PERIOD * (1 - _LONGEST)
        while time.process_time() < enough and time.perf_counter() < latest:
            pass
        time.sleep(max(0.0, due - time.perf_counter()))


if __name__ == "__main__":
    main(sys.argv[1])
