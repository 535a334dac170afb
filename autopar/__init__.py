"""autopar: an unmodified PyTorch model and a process grid in, a readable SPMD program out.

Names are loaded when first used, so that a generated program, which imports `autopar.runtime`, never imports the compiler.
"""

from __future__ import annotations

__version__ = "0.1.0"
