"""``python -m autopar`` is the command ``autopar``."""

import sys

from autopar.cli import console

if __name__ == "__main__":
    sys.exit(console())
