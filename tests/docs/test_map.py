"""Every file is found from docs/design.md's map, the glossary has each word once, and what documents name is there."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAPPED = ("autopar", "costmodel", "partitioner", "codegen", "runtime", "configs", "benchmarks")
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
USERS = {"model.py", "train.py", "program.py", "program_17.py"}  # files of users, and what the compiler writes


def mapped():
    """The files of the map by path; a folder stands for its ``__init__.py``."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").split("\n## Map\n")[1]
    folder = ""
    for line in text.splitlines():
        if heading := re.match(r"\*\*`([\w/]+)/`\*\* \S", line):
            folder = heading[1]
            yield f"{folder}/__init__.py"
        elif entry := re.match(r"\* `(\w+\.py)` \S", line):
            yield f"{folder}/{entry[1]}"


def test_the_map_has_every_file_once():
    lines = list(mapped())
    files = {path.relative_to(ROOT).as_posix() for folder in MAPPED for path in (ROOT / folder).rglob("*.py")}
    assert sorted(files - set(lines)) == [], "files without a line in docs/design.md's map"
    assert sorted(set(lines) - files) == [], "lines of docs/design.md's map without a file"
    assert len(lines) == len(set(lines))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document):
    targets = re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", document.read_text(encoding="utf-8"))
    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_are_there(document):
    files = [f"/{path.relative_to(ROOT).as_posix()}" for path in ROOT.rglob("*.py") if ".venv" not in path.parts]
    names = set(re.findall(r"`([\w/]+\.py)`", document.read_text(encoding="utf-8"))) - USERS
    assert [name for name in sorted(names) if not any(file.endswith(f"/{name}") for file in files)] == []


def test_the_glossary_has_each_word_once():
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| .+? \| .*\]\(.+\).* \|$", text, re.MULTILINE)
    words = Counter(word for row in rows for word in re.split(r", |: ", row))
    assert len(rows) > 50
    assert {word for word, count in words.items() if count > 1} == set()
