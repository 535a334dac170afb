"""From an `nn.Module` to our Graph: export, translate, simplify, name.

    model, example inputs --build--> module on fake tensors --export--> functional FX graph --translate--> Graph
          --simplify--> shorter Graph --names--> Graph with readable names

Nothing is allocated where the model is given as a function, so a model larger than this machine can be captured on it.
"""

from autopar.capture.format import format_graph
from autopar.capture.pipeline import Captured, capture

__all__ = ["Captured", "capture", "format_graph"]
