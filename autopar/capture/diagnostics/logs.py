"""What a capture logs, and torch without its own words: it logs and prints what it raises as well."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

LOG = logging.getLogger("autopar.capture")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """torch logs and prints what it raises as well; the exception says it once and in our words."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)  # torch's own use of it
            warnings.filterwarnings(
                "ignore", message=".*assigned during export"
            )  # `autopar.capture.state.python_state` looks into it
            warnings.filterwarnings("ignore", message=".*_flat_weights")  # nn.LSTM's own list of its parameters
            yield
    finally:
        logging.disable(level)
