"""Where the user's code stands: from a stack trace or a traceback to ``("model.py:12", "x = self.fc(x)")``.

The user's code is the innermost frame in a file that defines one of the model's composite modules: of a Hugging Face
GPT-2 this is modeling_gpt2.py and not the helper that computes a loss or an activation. Where there is no such frame it
is the innermost frame that is neither torch's nor ours. torch.export records only frames called ``forward``.
"""

from __future__ import annotations

import inspect
import os
import re
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

TORCH = str(Path(torch.__file__).parent) + os.sep  # not those of torchvision, whose name begins so
OURS = str(Path(__file__).parents[1]) + os.sep


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a stack: file, line number, text of the line."""

    file: str
    line: int
    code: str

    @property
    def place(self) -> str:
        """``model.py:12``."""
        return f"{Path(self.file).name}:{self.line}"

    @property
    def text(self) -> str:
        """``model.py:12: `x = self.fc(x)```."""
        return f"{self.place}: `{self.code}`"


def user_files(model: nn.Module) -> frozenset[str]:
    """Files that define the classes of the model's composite modules, torch's own left out."""
    kinds = {type(part) for part in model.modules() if part is model or any(True for _ in part.children())}
    files = (_file_of(kind) for kind in kinds)
    return frozenset(file for file in files if file and not file.startswith(TORCH))


def frames_of_text(text: str) -> tuple[Frame, ...]:
    """The frames of a formatted stack, outermost first."""
    matches = re.findall(r'File "([^"]+)", line (\d+), in [^\n]*\n([^\n]*)', text)
    return tuple(Frame(file, int(line), code.strip()) for file, line, code in matches)


def frames_of_error(error: BaseException) -> tuple[Frame, ...]:
    """The frames of an exception, then those of its causes, outermost first each."""
    frames: list[Frame] = []
    for cause in chain(error):
        frames += _frames(traceback.extract_tb(cause.__traceback__))
    return tuple(frames)


def _frames(stack: traceback.StackSummary) -> tuple[Frame, ...]:
    return tuple(Frame(frame.filename, frame.lineno or 0, (frame.line or "").strip()) for frame in stack)


def line_here(files: frozenset[str]) -> str:
    """The line of forward that is being traced."""
    frame = innermost(_frames(traceback.extract_stack()), files)
    return frame.text if frame else "forward"


def node_frame(node: fx.Node, files: frozenset[str]) -> Frame | None:
    """Where the user's code makes a traced call."""
    return innermost(frames_of_text(node.meta.get("stack_trace") or ""), files)


def node_line(node: fx.Node, files: frozenset[str]) -> str:
    """The line of the user's code that makes a traced call; empty where it is not known."""
    frame = node_frame(node, files)
    return frame.text if frame else ""


def origin(node: fx.Node) -> dict[str, Any]:
    """What a call that is made in the place of a traced one has of its ``meta``: module and line."""
    return {key: node.meta[key] for key in ("nn_module_stack", "stack_trace") if key in node.meta}


def innermost(frames: Sequence[Frame], files: frozenset[str]) -> Frame | None:
    """The innermost frame in `files`, or else in anybody's code but torch's and ours; None where there is none."""
    known = [frame for frame in frames if frame.file in files]
    other = [frame for frame in frames if Path(frame.file).is_file() and not frame.file.startswith((TORCH, OURS))]
    return known[-1] if known else other[-1] if other else None


def _file_of(kind: type) -> str:
    try:
        return inspect.getsourcefile(kind) or ""
    except (OSError, TypeError):  # a class made on the fly has no file
        return ""


def chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and what it came from, each once."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
