"""docs/operators.md says what the records say."""

import difflib
import warnings
from pathlib import Path

import pytest

from autopar.analysis.operator_catalogue import catalogue, named, row_of
from autopar.ops.registry import registry

DOCUMENT = Path(__file__).parents[2] / "docs" / "operators.md"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_document_is_current():
    found, expected = DOCUMENT.read_text().splitlines(), catalogue().splitlines()
    changes = "\n".join(difflib.unified_diff(found, expected, "docs/operators.md", "the records", lineterm="", n=0))
    assert not changes, f"make operators writes it anew\n{changes}"


@pytest.mark.parametrize(
    ("target", "split", "whole", "inside"),
    [
        ("aten.linear.default", "b, k+, n", "", ""),
        ("autopar.batch_norm", "n, c, s", "", "sum: n, s"),
        ("aten.sort.default", "d of other dims", "d of its own dim, y", ""),
    ],
)
def test_row(target, split, whole, inside):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        row = row_of(registry()[target])
    assert (row.split, row.whole, row.inside) == (split, whole, inside)


def test_every_target_is_named():
    text = DOCUMENT.read_text()
    for target in registry():
        assert f"`{named([target]).split('`')[1]}`" in text
