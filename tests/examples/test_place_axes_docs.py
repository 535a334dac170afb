"""The examples of docs/place_axes.md run as they stand, and the program and the tables that it quotes are what comes out."""

import re
import shlex
from pathlib import Path

from shared_captures import of_file

from autopar.cli.main import main

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "place_axes.md").read_text(encoding="utf-8")


def quoted(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def shape(line):
    """A line without what follows the prices: numbers, rules, lanes, and the names of what lies at the cuts."""
    names = re.sub(r'"\w+"(, "\w+")*|\w+_to_\w+|\b(add|tanh|slim|wide)(_\d+)?\b|h\.\d+(\.\w+)?', "#", line)
    numbers = re.sub(r"([FBW]\d+[-=~. \d]*)+|[-=~.u\u2500]{2,}|[\d.]+( [mk]?s| [KM]iB| B|%)?|\w+\(\d?\)", "#", names)
    return re.sub(r"[\s#x]+", " ", numbers).strip()


def test_every_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("autopar.capture.capture", of_file)  # the same model in all of them
    [model] = quoted("python")
    (tmp_path / "net.py").write_text(model)
    said = {}
    for line in (line.removeprefix("$ ") for block in quoted("console") for line in block.splitlines()):
        words = shlex.split(line, comments=True)
        assert words.pop(0) == "autopar"
        assert main(words) == ("# refused" in line), capsys.readouterr().err
        out = capsys.readouterr()
        said[line] = out.out + out.err
    program = (tmp_path / "build" / "program.py").read_text()
    for kind, text in (("python program", program), ("text inspect", said["autopar inspect build --view segments"])):
        lines = set(map(shape, text.splitlines()))
        assert [line for line in quoted(kind)[0].splitlines() if shape(line) not in lines] == []
    assert "on another position" in said["autopar diff two_each by_hand"]
    assert "--segments 2" in next(text for line, text in said.items() if "# refused" in line)
