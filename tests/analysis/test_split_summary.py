"""The words of a plan: batch, features, space; and numbers for people."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from autopar.analysis.split_summary import meaning
from autopar.cli.tables import Heading, layouts, milliseconds, short
from autopar.ir.plan import AxisChoice, NodePlan
from autopar.ir.units import bytes_text

LINEAR = "b* k, n k, n? -> b* n"
CONV = "n c h~ w~, k c [r] [s], k? -> n k h~ w~"
ATTENTION = "b* t [e], b* [s] [e], b* [s] [f], (b* t [s])? -> b* t f"


def call(letters, shape, choice):
    return NodePlan("f", "aten.f.default", letters, "", "", "", shape, (choice,), 1.0, 1.0, 0, True)


@pytest.mark.parametrize(
    ("letters", "shape", "operands", "result", "word"),
    [
        (LINEAR, (8, 4), ("shard 0", "copied"), "shard 0", "batch"),
        (LINEAR, (8, 5, 4), ("shard 1", "copied"), "shard 1", "sequence"),
        (LINEAR, (8, 4), ("copied", "shard 0"), "shard 1", "features"),
        (LINEAR, (8, 4), ("shard 1", "shard 1"), "partial", "features"),
        (LINEAR, (8, 4), ("shard 0 as 2x_x1", "copied"), "shard 0 as 2x_x1", "sequence"),
        (CONV, (8, 4, 6, 6), ("shard 0", "copied"), "shard 0", "batch"),
        (CONV, (8, 4, 6, 6), ("copied", "shard 0"), "shard 1", "channels"),
        (CONV, (8, 4, 6, 6), ("shard 1", "shard 1"), "partial", "channels"),
        (CONV, (1, 4, 6, 6), ("shard 3", "copied"), "shard 3", "space"),
        (ATTENTION, (8, 2, 6, 4), ("shard 1", "shard 1", "shard 1"), "shard 1", "heads"),
        (ATTENTION, (8, 2, 6, 4), ("shard 2", "copied", "copied"), "shard 2", "sequence"),
        (ATTENTION, (8, 2, 6, 4), ("copied", "copied", "shard 3"), "shard 3", "features"),
    ],
)
def test_words_for_splits(letters, shape, operands, result, word):
    choice = AxisChoice("split", "x", 1, 1, operands, (result,))
    assert meaning(call(letters, shape, choice), choice) == word


@pytest.mark.parametrize("mode", ["replicate", "copied", "linear"])
def test_nothing_is_split(mode):
    choice = AxisChoice(mode, "", 1, 1, ("replicate",), ("replicate",))
    assert meaning(call(LINEAR, (8, 4), choice), choice) == "nothing"


@given(st.floats(0, 1e18))
def test_sizes_are_short_and_near(count):
    number, unit = bytes_text(count).split()
    scale = 1024 ** ("B", "KiB", "MiB", "GiB", "TiB").index(unit)
    assert float(number) * scale == pytest.approx(count, rel=0.006)
    assert "e" not in number or count < 1e-3 or count >= 1000 * 1024**4


@given(st.floats(0, 1e6))
def test_times_are_near(seconds):
    number, unit = milliseconds(seconds).split()
    assert float(number) * {"ms": 1e-3, "s": 1}[unit] == pytest.approx(seconds, rel=0.006)
    assert "e+" not in number


def test_short_names():
    assert short("aten.linear.default") == "linear"
    assert short("autopar.batch_norm") == "batch_norm"
    assert layouts(["replicate", "copied", "partial", "shard 1", "shard 0 as 3x_x64"]) == "R C P S1 S0(3x_x64)"


@given(st.integers(8, 60), st.text("ab.", min_size=1, max_size=50), st.text("xy", max_size=20))
def test_headings_keep_their_end(width, path, about):
    out = io.StringIO()
    Console(file=out, width=width).print(Heading(path, about))
    shown = out.getvalue().removesuffix("\n").rstrip()
    assert len(shown) <= width
    whole = f"{path}  {about}".rstrip()
    assert shown in (whole, path, f"\u2026{path[1 - width :]}")
    assert shown == whole or len(whole) > width
