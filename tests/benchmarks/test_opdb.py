"""The run of PyTorch's operator database: three operators, its table, and that sections leave one another alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.compatibility.section import write_section

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.zoo
def test_operators_are_tried_and_told(tmp_path):
    command = [sys.executable, "-m", "benchmarks.compatibility.opdb", "--out", str(tmp_path / "kept.json")]
    command += ["--names", "mul", "cauchy", "nonzero", "--samples", "2", "--grids", "2"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    told = "2 comparable: 1 ok, 1 REFUSED, 1 nocompare; 1 of those that are ok split"
    assert told in " ".join(ended.stderr.split())
    rows = {one["name"]: one for one in json.loads((tmp_path / "kept.json").read_text())}
    assert rows["mul"]["split"] == ["aten.mul.Tensor"]
    assert rows["mul"]["programs"] >= 3
    assert "depends on the values" in rows["nonzero"]["why"][0]
    assert rows["cauchy"]["why"] == ["random"]


def test_a_section_is_written_in_its_place(tmp_path):
    document = tmp_path / "document.md"
    for name, text in (("one", "first"), ("other", "second"), ("one", "third\\1")):
        write_section(name, text, document)
    text = document.read_text()
    assert text.startswith("# Compatibility")
    assert "first" not in text
    assert text.index("third\\1") < text.index("second")
    assert text.count("<!--") == 4
