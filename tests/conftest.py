"""Puts this folder on the path, so that tests in subfolders can import the helpers that stand here; golden programs."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("AUTOPAR_CACHE", "off")  # tests keep nothing in the user's home
GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser):
    parser.addoption("--accept", action="store_true", help="rewrite the golden programs in tests/golden")


@pytest.fixture
def golden(request):
    """A function that compares a program with the golden one of that name, or with --accept makes it the golden one."""

    def compare(name, text):
        path = GOLDEN / f"{name}.py"
        if request.config.getoption("--accept"):
            GOLDEN.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path} is missing: pytest --accept writes it"
        assert text == path.read_text(encoding="utf-8"), "if the change is meant, pytest --accept takes it over"

    return compare
