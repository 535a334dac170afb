"""autopar: an unmodified PyTorch model and a process grid in, a readable SPMD program out.

Names are loaded when first used, so that a generated program, which imports `autopar.runtime`, never imports the compiler.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopar.version import __version__ as __version__

if TYPE_CHECKING:
    from autopar.analysis.replanning import replan
    from autopar.compiler import Compiled, compile
    from autopar.hugging_face.pretrained import from_pretrained
    from autopar.ir.plan import Plan
    from autopar.ir.plan_file import load_plan
    from autopar.ops.registry import register_operator
    from autopar.parallel import load, parallelize
    from autopar.proof import prove_operator

# In a checkout `autopar/` hides an installed autopar from whoever works there; its other packages then stand beside it.
if not Path(__file__).with_name("runtime").exists():
    __path__.append(str(Path(__file__).parents[1]))

_HOMES = {
    "Compiled": "autopar.compiler",
    "Plan": "autopar.ir.plan",
    "compile": "autopar.compiler",
    "from_pretrained": "autopar.hugging_face.pretrained",
    "load": "autopar.parallel",
    "load_plan": "autopar.ir.plan_file",
    "parallelize": "autopar.parallel",
    "prove_operator": "autopar.proof",
    "register_operator": "autopar.ops.registry",
    "replan": "autopar.analysis.replanning",
}

__all__ = [
    "Compiled",
    "Plan",
    "compile",
    "from_pretrained",
    "load",
    "load_plan",
    "parallelize",
    "prove_operator",
    "register_operator",
    "replan",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 (any public name)
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'autopar' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
