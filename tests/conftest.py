"""Puts this folder on the path, so that tests in subfolders can import the helpers that stand here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
