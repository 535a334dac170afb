"""The rules of the house, read off the syntax trees: sizes, frozen records, owners of packages, ASCII, no local paths.

Which of our own files may import which is the table of `test_layers`. Each rule is a function from one source file to its
offences, so that each is also shown a file which breaks it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator

import pytest
from source_files import OTHERS, ROOT, SHIPPED, Source, sources

MAX_FILE, MAX_FUNCTION = 400, 50

# Dataclasses that may change, each with the reason. Beside them: a class named with an underscore, which is the working
# state of the functions of its own file.
MUTABLE = {
    "codegen/liveness.py:HeldMemory": "memory whose end grows while its holders are found",
    "codegen/liveness.py:Walk": "the state of an execution, which every step of it changes",
    "partitioner/solvers/presolve.py:Factors": "tables that reductions rewrite in place, thousands of times",
    "partitioner/solvers/local_search.py:LocalSearch": "the best choice so far, which several searches improve in turn",
}
# Modules that few files may import: the file that knows the thing, or the folder (with a slash).
OWNERS = {
    "pulp": ("partitioner/solvers/ilp.py", "partitioner/solvers/highs.py", "partitioner/placement/mip.py"),
    "highspy": ("partitioner/solvers/highs.py",),
    "mpi4py": tuple(
        f"runtime/transport/{name}.py"
        for name in (
            "mpi",
            "mpi_buffers",
            "progress_thread",
            "fetch_counter",
            "shutdown",
            "shared_memory",
            "shared_sums",
        )
    ),
    "torch.fx": ("autopar/capture/",),
    "torch.export": ("autopar/capture/",),
}


def within(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def long_files(source: Source) -> Iterator[str]:
    lines = source.text.count("\n")
    if lines > MAX_FILE:
        yield f"{lines} lines"


def long_functions(source: Source) -> Iterator[str]:
    for node in source.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            lines = node.end_lineno - node.lineno + 1
            if lines > MAX_FUNCTION:
                yield f"line {node.lineno}: {node.name} has {lines} lines"


def mutable_records(source: Source) -> Iterator[str]:
    for node in source.nodes:
        if isinstance(node, ast.ClassDef) and not may_change(source, node.name):
            for decorator in map(ast.unparse, node.decorator_list):
                if re.match(r"(dataclasses\.)?dataclass\b", decorator) and "frozen=True" not in decorator:
                    yield f"line {node.lineno}: {node.name}"


def may_change(source: Source, name: str) -> bool:
    return name.startswith("_") or f"{source.path}:{name}" in MUTABLE


def strangers(source: Source) -> Iterator[str]:
    """Imports of a module that another file owns."""
    for line, name in source.imports:
        for module, owners in OWNERS.items():
            owned = any(source.path.startswith(o) if o.endswith("/") else source.path == o for o in owners)
            if within(name, module) and not owned:
                yield f"line {line}: {name} belongs to {', '.join(owners)}"


def bare_imports(source: Source) -> Iterator[str]:
    """`import runtime` instead of `import autopar.runtime` would load a second copy."""
    for line, name in source.imports:
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
IN_WHAT_SHIPS: tuple[Rule, ...] = (mutable_records, strangers)


def offences(rule: Rule, folders: tuple[str, ...]) -> list[str]:
    files = [source for folder in folders for source in sources(folder)]
    return [f"{source.path}, {offence}" for source in files for offence in rule(source)]


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
        (machine_paths, "autopar/a.py", "# n/2, ./home/x\n"),
    ],
)
def test_each_rule_lets_pass(rule: Rule, path: str, text: str):
    assert not list(rule(Source(path, text)))
