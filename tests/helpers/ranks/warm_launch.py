"""``warm_launch.py program ranks arguments...``: launches a program as `autopar run` does, on ranks of `warm_ranks`."""

import sys
from pathlib import Path

from warm_ranks import warm

from autopar.jobs import launch

if __name__ == "__main__":
    cold = launch.command
    launch.command = lambda *words: warm(cold(*words))
    sys.exit(launch.launch(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
