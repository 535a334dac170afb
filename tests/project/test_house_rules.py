"""The rules of the house, read off the syntax trees: sizes, frozen records, who may import what, ASCII, no local paths.

Each rule is a function from one source file to its offences, so that each is also shown a file which breaks it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("autopar", "codegen", "configs", "costmodel", "partitioner", "runtime")
OTHERS = ("benchmarks", "docs", "examples", "tests")
GENERATED = ("tests/golden/",)
MAX_FILE, MAX_FUNCTION = 400, 50

# Dataclasses that may change, each with the reason. Beside them: a class named with an underscore, which is the working
# state of the functions of its own file.
MUTABLE = {
    "codegen/liveness.py:Walk": "the state of an execution, which every step of it changes",
    "partitioner/solvers/presolve.py:Factors": "tables that reductions rewrite in place, thousands of times",
    "partitioner/solvers/local_search.py:Search": "the best choice so far, which several searches improve in turn",
}
# Modules that few files may import: the file that knows the thing, or the folder (with a slash).
OWNERS = {
    "pulp": ("partitioner/solvers/ilp.py",),
    "highspy": ("partitioner/solvers/ilp.py",),
    "mpi4py": tuple(
        f"runtime/transport/{name}.py"
        for name in ("mpi", "mpi_buffers", "progress_thread", "shutdown", "shared_memory", "shared_sums")
    ),
    "torch.fx": ("autopar/capture/",),
    "torch.export": ("autopar/capture/",),
}
# Modules that find plans. (Others of the partitioner say what a plan is made of, and codegen reads those.)
SOLVERS = ("autopar.partitioner.solvers",)
# What the files of a folder may not import.
FORBIDDEN = {
    "costmodel": ("torch", "mpi4py", "pulp", "autopar.partitioner", "autopar.codegen", "autopar.runtime"),
    "partitioner": ("torch", "mpi4py", "autopar.codegen", "autopar.runtime"),
    "codegen": ("mpi4py", "pulp", "highspy", *SOLVERS),
    "runtime": ("networkx", "pulp", "highspy"),
}
# What the files of `runtime` may import from autopar: a generated program must never load the compiler.
RUNTIME_MAY = (
    "autopar.runtime",
    "autopar.version",
    "autopar.ir.batch_sizes",
    "autopar.errors",
    "autopar.ir.bucketing",
    "autopar.ir.conversions",
    "autopar.ir.layout",
    "autopar.ir.grid",
    "autopar.jobs",
    "autopar.ir.calibration_data",
    "autopar.model_file",
    "autopar.ir.profile",
)


@dataclass(frozen=True)
class Source:
    """One Python file: its path from the root of the project, and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def folder(self) -> str:
        return self.path.split("/")[0]

    def imports(self) -> Iterator[tuple[int, str]]:
        """Line and dotted name of everything imported, `from a import b` as `a.b`; relative imports made absolute."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self.package(node.level) + (node.module or "")
                yield from ((node.lineno, f"{base}.{alias.name}".strip(".")) for alias in node.names)

    def package(self, level: int) -> str:
        """The package that `level` dots before a name mean in this file, with a dot behind it."""
        if not level:
            return ""
        parts = self.path.split("/")
        whole = parts if parts[0] == "autopar" else ["autopar", *parts]
        return ".".join(whole[:-level]) + "."


def within(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def long_files(source: Source) -> Iterator[str]:
    lines = source.text.count("\n")
    if lines > MAX_FILE:
        yield f"{lines} lines"


def long_functions(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            lines = node.end_lineno - node.lineno + 1
            if lines > MAX_FUNCTION:
                yield f"line {node.lineno}: {node.name} has {lines} lines"


def mutable_records(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef) and not may_change(source, node.name):
            for decorator in map(ast.unparse, node.decorator_list):
                if re.match(r"(dataclasses\.)?dataclass\b", decorator) and "frozen=True" not in decorator:
                    yield f"line {node.lineno}: {node.name}"


def may_change(source: Source, name: str) -> bool:
    return name.startswith("_") or f"{source.path}:{name}" in MUTABLE


def strangers(source: Source) -> Iterator[str]:
    """Imports of a module that another file owns."""
    for line, name in source.imports():
        for module, owners in OWNERS.items():
            owned = any(source.path.startswith(o) if o.endswith("/") else source.path == o for o in owners)
            if within(name, module) and not owned:
                yield f"line {line}: {name} belongs to {', '.join(owners)}"


def forbidden(source: Source) -> Iterator[str]:
    for line, name in source.imports():
        if any(within(name, module) for module in FORBIDDEN.get(source.folder, ())):
            yield f"line {line}: {name}"


def runtime_reaches_out(source: Source) -> Iterator[str]:
    if source.folder == "runtime":
        for line, name in source.imports():
            # `import autopar` alone is for its version: it loads its other names lazily.
            if name.startswith("autopar.") and not any(within(name, module) for module in RUNTIME_MAY):
                yield f"line {line}: {name}"


def bare_imports(source: Source) -> Iterator[str]:
    """`import runtime` instead of `import autopar.runtime` would load a second copy."""
    for line, name in source.imports():
        if name.split(".")[0] in SHIPPED[1:]:
            yield f"line {line}: {name}"


def not_ascii(source: Source) -> Iterator[str]:
    for number, line in enumerate(source.text.splitlines(), 1):
        if not line.isascii():
            yield f"line {number}: {line.strip()}"


def machine_paths(source: Source) -> Iterator[str]:
    """Paths of somebody's machine, and hosts of package registries."""
    for number, line in enumerate(source.text.splitlines(), 1):
        if re.search(
            r"(?<![\w.])/(?:work|root|home|Users|opt|tmp)/\w|py[p]i\.org|python[h]osted|download\.py[t]orch", line
        ):
            yield f"line {number}: {line.strip()}"


Rule = Callable[[Source], Iterator[str]]
EVERYWHERE: tuple[Rule, ...] = (long_files, long_functions, not_ascii, machine_paths, bare_imports)
IN_WHAT_SHIPS: tuple[Rule, ...] = (mutable_records, strangers, forbidden, runtime_reaches_out)


def sources(folders: tuple[str, ...]) -> list[Source]:
    paths = (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    relative = ((path.relative_to(ROOT).as_posix(), path) for path in paths)
    return [Source(name, path.read_text(encoding="utf-8")) for name, path in relative if not name.startswith(GENERATED)]


def offences(rule: Rule, folders: tuple[str, ...]) -> list[str]:
    return [f"{source.path}, {offence}" for source in sources(folders) for offence in rule(source)]


@pytest.mark.parametrize("rule", EVERYWHERE, ids=lambda rule: rule.__name__)
def test_everywhere(rule: Rule):
    assert not offences(rule, SHIPPED + OTHERS)


@pytest.mark.parametrize("rule", IN_WHAT_SHIPS, ids=lambda rule: rule.__name__)
def test_in_what_ships(rule: Rule):
    assert not offences(rule, SHIPPED)


def test_no_machine_paths_in_other_text():
    names = [p for p in ROOT.iterdir() if p.suffix in (".md", ".toml", ".txt")] + [ROOT / "Makefile", ROOT / ".ci/run"]
    names += [p for folder in SHIPPED + OTHERS for s in ("md", "toml", "sh") for p in (ROOT / folder).rglob(f"*.{s}")]
    found = [f"{p.name}, {o}" for p in names for o in machine_paths(Source(p.name, p.read_text(encoding="utf-8")))]
    assert len(names) > 4
    assert not found


def test_tests_have_distinct_names_and_no_packages():
    files = [path for path in (ROOT / "tests").rglob("*.py") if "golden" not in path.parts]
    names = [path.name for path in files]
    assert "__init__.py" not in names
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (long_files, "autopar/a.py", "\n" * 401),
        (long_functions, "autopar/a.py", "def f():\n" + "    pass\n" * 50),
        (mutable_records, "autopar/a.py", "@dataclass(slots=True)\nclass A:\n    pass\n"),
        (mutable_records, "autopar/a.py", "@dataclasses.dataclass\nclass A:\n    pass\n"),
        (strangers, "partitioner/solvers/local_search.py", "def f():\n    from pulp import LpProblem\n"),
        (strangers, "autopar/ir/graph.py", "import torch.fx\n"),
        (forbidden, "costmodel/a.py", "from torch import nn\n"),
        (forbidden, "partitioner/a.py", "from autopar import codegen\n"),
        (runtime_reaches_out, "runtime/a.py", "from autopar.ir.graph import Graph\n"),
        (runtime_reaches_out, "runtime/a.py", "from autopar import compiler\n"),
        (runtime_reaches_out, "runtime/primitives/a.py", "from ...graph import Graph\n"),
        (bare_imports, "benchmarks/a.py", "import runtime.grid\n"),
        (not_ascii, "autopar/a.py", "# caf\u00e9\n"),
        (machine_paths, "autopar/a.py", "open('" + "/home" + "/me/x')\n"),
    ],
)
def test_each_rule_objects(rule: Rule, path: str, text: str):
    assert list(rule(Source(path, text)))


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (long_functions, "autopar/a.py", "def f():\n" + "    pass\n" * 49),
        (mutable_records, "autopar/a.py", "@dataclass(frozen=True, slots=True)\nclass A:\n    pass\n"),
        (strangers, "partitioner/solvers/ilp.py", "import pulp\n"),
        (strangers, "autopar/capture/exporting/export.py", "from torch.fx import Node\n"),
        (forbidden, "costmodel/torchlike.py", "import torchlike\nfrom autopar.ir.graph import Graph\n"),
        (runtime_reaches_out, "runtime/a.py", "from autopar.errors import CommError\nfrom .primitives import copy\n"),
        (machine_paths, "autopar/a.py", "# n/2, ./home/x\n"),
    ],
)
def test_each_rule_lets_pass(rule: Rule, path: str, text: str):
    assert not list(rule(Source(path, text)))
