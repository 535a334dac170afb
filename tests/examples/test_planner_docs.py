"""The examples of docs/planner.md run as they stand: the model, every command line, and the Python."""

import re
import shlex
import sys
from pathlib import Path

from shared_captures import of_file

from autopar.cli.main import main

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "planner.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_every_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("autopar.capture.capture", of_file)  # the same model in all of them
    monkeypatch.syspath_prepend(str(tmp_path))
    model, script = blocks("python")
    (tmp_path / "net.py").write_text(model)
    lines = [line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines()]
    assert len(lines) == 8
    for line in lines:
        words = shlex.split(line, comments=True)
        assert words.pop(0) == "autopar"
        assert main(words) == ("# refused" in line), capsys.readouterr().err
    sys.modules.pop("net", None)
    exec(compile(script, "planner.md", "exec"), {})
    sys.modules.pop("net", None)
    out = capsys.readouterr().out
    assert len(re.findall(r"^(cpu|h100) (4|2x2) \d+\.\d{3} ms$", out, re.MULTILINE)) == 4


def test_the_table_of_fixed_plans_is_complete():
    from autopar.planning.baselines import BASELINES

    assert set(BASELINES) <= set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE))
