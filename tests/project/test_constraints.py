"""constraints.txt pins exactly one version of every package that the project asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

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
