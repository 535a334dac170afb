"""constraints.txt pins exactly one version of every package that the project asks for."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PIN = re.compile(r"([A-Za-z0-9_.-]+)==([\w.]+)")


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    matches = [PIN.fullmatch(line) for line in lines]
    assert all(matches), [line for line, match in zip(lines, matches, strict=True) if not match]
    named = {canonicalize_name(match[1]): match[2] for match in matches if match}
    assert len(named) == len(lines), "a package is pinned twice"
    return named


def requirements() -> list[Requirement]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        table = tomllib.load(file)
    extras = table["project"]["optional-dependencies"]
    chosen = [*extras["mpich"], *extras["examples"], *extras["dev"], *table["build-system"]["requires"]]
    everything = map(Requirement, table["project"]["dependencies"] + chosen)
    return [requirement for requirement in everything if requirement.name != "autopar"]


def test_every_requirement_is_pinned_to_a_version_that_it_allows():
    pinned = pins()
    offenders = [str(r) for r in requirements() if pinned.get(canonicalize_name(r.name), "") not in r.specifier]
    assert not offenders


def test_torch_is_pinned_without_a_build():
    assert pins()["torch"] == "2.13.0"


def imported(folder: str) -> set[str]:
    """The packages that a folder's files import, at any depth."""
    found: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("folder", ["autopar", "codegen", "configs", "costmodel", "partitioner", "runtime"])
def test_what_ships_imports_only_its_dependencies(folder: str):
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    asked = project["dependencies"] + (project["optional-dependencies"]["hugging-face"] if folder == "autopar" else [])
    declared = {Requirement(text).name for text in asked}
    assert imported(folder) <= declared | set(sys.stdlib_module_names) | {"autopar"}
