"""The project's Python files, each read and parsed once, and what they import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("autopar", "codegen", "configs", "costmodel", "partitioner", "runtime")
OTHERS = ("benchmarks", "docs", "examples", "tests")
GENERATED = ("tests/golden/",)
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Source:
    """One Python file: its path from the root of the project, and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @property
    def module(self) -> str:
        """The dotted name under which the file is installed."""
        name = self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        return name if self.path.startswith("autopar/") else f"autopar.{name}"

    @cached_property
    def imports(self) -> list[tuple[int, str]]:
        """Line and dotted name of everything imported, anywhere in the file: `from a import b` as `a.b`."""
        found = []
        for node in self.nodes:
            if isinstance(node, ast.Import):
                found += [(node.lineno, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = self._package(node.level) + (node.module or "")
                found += [(node.lineno, f"{base}.{alias.name}".strip(".")) for alias in node.names]
        return found

    def _package(self, level: int) -> str:
        """The package that `level` dots before a name mean in this file, with a dot behind it."""
        if not level:
            return ""
        parts = self.path.split("/")
        whole = parts if parts[0] == "autopar" else ["autopar", *parts]
        return ".".join(whole[:-level]) + "."

    def strings(self) -> Iterator[tuple[int, str]]:
        """Line and text of every string that is no docstring and no logger's name."""
        apart = {id(node) for _, node in self._docstrings()}
        for node in self.nodes:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "getLogger":
                apart |= set(map(id, node.args))
        for node in self.nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in apart:
                yield node.lineno, node.value

    def docstrings(self) -> Iterator[tuple[int, str]]:
        """Line and text of every docstring."""
        for line, node in self._docstrings():
            yield line, str(node.value)

    def _docstrings(self) -> Iterator[tuple[int, ast.Constant]]:
        for node in self.nodes:
            first = node.body[0] if isinstance(node, _WITH_DOCSTRING) and node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                yield first.lineno, first.value


@cache
def sources(folder: str) -> list[Source]:
    """All files of a folder of the root but generated ones."""
    paths = sorted((ROOT / folder).rglob("*.py"))
    relative = ((path.relative_to(ROOT).as_posix(), path) for path in paths)
    return [Source(name, path.read_text(encoding="utf-8")) for name, path in relative if not name.startswith(GENERATED)]


def shipped() -> list[Source]:
    """All files of the product."""
    return [source for folder in SHIPPED for source in sources(folder)]
