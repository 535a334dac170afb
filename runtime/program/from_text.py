"""Run the text of a program: what it defines as PROGRAM, also on a grid that is there already."""

from __future__ import annotations

import ast
import linecache
from typing import Any

import torch

from autopar.runtime.grid.grid import Grid
from autopar.runtime.program.program import Program


def program_of(source: str, name: str, grid: Grid | None = None) -> Program:
    """Execute a program's text; tracebacks show its lines under this name.

    With a `grid` of the same shape its lines that make one and name the axes are left out, so that several programs
    move their cuts together.
    """
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    space: dict[str, Any] = {"__name__": "autopar_program", "torch": torch}
    tree = ast.parse(source, name)
    if grid is not None:
        tree.body = [statement for statement in tree.body if not _makes_grid(statement)]
        space |= {"GRID": grid} | {axis.name.upper(): axis for axis in grid.axes}
    exec(compile(tree, name, "exec"), space)  # our own text, or what a user made of it
    program: Program = space["PROGRAM"]
    return program


def _makes_grid(line: ast.stmt) -> bool:
    """``GRID = Grid("2x2")``, or ``ROWS, COLUMNS = GRID.axes``."""
    return isinstance(line, ast.Assign) and ast.unparse(line.value).startswith(("Grid(", "GRID.axes"))
