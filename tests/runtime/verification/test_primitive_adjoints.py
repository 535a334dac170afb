"""`autopar verify --adjoint`: the family that it draws, what it prints, and that it finds a primitive that is wrong."""

import json
import random
import subprocess
import sys

import pytest
import torch

from autopar.ir.grid import GridShape
from autopar.ir.layout import Shard
from autopar.runtime import Grid, all_gather, simulate
from autopar.runtime.transport.world import default_world
from autopar.runtime.verification import primitive_adjoints
from autopar.runtime.verification.adjoint_test import TOLERANCE
from autopar.runtime.verification.conversion_cases import FAMILY, ConversionCase, Entry, random_grids
from autopar.runtime.verification.partition_cases import PARTITION_FAMILY
from autopar.runtime.verification.primitive_adjoints import examine, main

NAMES = [*FAMILY, *PARTITION_FAMILY]


def wrong_gather(draw, grid):
    """A gather with the adjoint of an all-gather, over the grid's last axis."""
    axis = grid.axes[-1]
    return ConversionCase(
        lambda x: all_gather(x, 0, axis, 7), Shard(0), FAMILY["gather"].target, (axis.part(7), 2), axis.comm
    )


@pytest.mark.parametrize("shape", ["8", "2x2x2", "1x3", "3x2"])
def test_every_primitive_passes_on_up_to_eight_ranks(shape):
    grid = GridShape.parse(shape)
    ranks = grid.size + 1  # one rank is in no grid
    for one in simulate(ranks, lambda: examine(default_world(), [grid], 5, 3))[-1]:
        assert one.worst <= TOLERANCE, one
        assert one.cases == 3


def test_the_family_has_even_uneven_and_empty_parts_blocks_and_units():
    """Of 60 cases of a primitive, and over all axes of a grid."""

    def rank_main():
        grid = Grid("1x3")
        seen = set()
        for number in range(60):
            case = FAMILY["gather"].draw(random.Random(number), grid)
            shard, rows = case.source, case.shape[case.source.dim]
            every = case.comm.gather_objects(rows)
            if case.comm.size == 3:
                seen.add("empty" if 0 in every else "even" if len(set(every)) == 1 else "uneven")
                seen |= {name for name in ("blocks", "unit") if getattr(shard, name) > 1}
        return seen

    for seen in simulate(3, rank_main):
        assert seen == {"empty", "even", "uneven", "blocks", "unit"}


def test_random_grids_have_one_to_three_axes_and_some_ranks_idle():
    grids = random_grids(random.Random(0), 8, 60)
    assert str(grids[0]) == "8"
    assert {len(grid.sizes) for grid in grids} == {1, 2, 3}
    assert {grid.size for grid in grids} == set(range(1, 9))
    assert grids == random_grids(random.Random(0), 8, 60)


def test_what_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(primitive_adjoints, "GRIDS", 4)
    monkeypatch.setattr(primitive_adjoints, "CASES", 1)
    simulate(2, lambda: main([]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("grid 1/4  2")
    rows = {line.split()[0]: line.split() for line in lines if line.endswith("ok      ")}
    assert list(rows) == NAMES
    assert all(row[-3] == "4" for row in rows.values())
    assert "every primitive passes" in lines[-1]


def test_a_wrong_primitive_ends_the_job(monkeypatch, capsys):
    gather = FAMILY["gather"]
    monkeypatch.setattr(primitive_adjoints, "FAMILY", {"gather": Entry(wrong_gather, gather.source, gather.target)})
    monkeypatch.setattr(primitive_adjoints, "PARTITION_FAMILY", {})
    with pytest.raises(SystemExit):
        simulate(2, lambda: main(["--grid", "1x2"]))
    said = capsys.readouterr()
    assert "1 of 1 primitives FAIL" in said.out
    assert "gather: " in said.err
    assert "grid 1x2" in said.err
    with pytest.raises(SystemExit):
        simulate(2, lambda: main(["--grid", "1x2", "--json"]))
    (row,) = json.loads(capsys.readouterr().out)
    assert row["worst"] > 1e-3
    assert row["tolerance"] == TOLERANCE


def test_errors_of_other_rows_of_the_grid_count(monkeypatch):
    """Only the ranks of the second row find a gap, and every rank is told."""

    def draw(draw, grid):
        scale = 2 if grid.position[0] else 1
        return ConversionCase(lambda x: _Scaled.apply(x, scale), Shard(0), Shard(0), (3,), grid.axes[1].comm)

    monkeypatch.setattr(primitive_adjoints, "FAMILY", {"scaled": Entry(draw, Shard(0), Shard(0))})
    monkeypatch.setattr(primitive_adjoints, "PARTITION_FAMILY", {})
    for found in simulate(4, lambda: examine(default_world(), [GridShape.parse("2x2")], 0, 2)):
        assert found[0].worst > 0.01
        assert "rank 2" in found[0].where


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.scale = scale
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.scale, None


@pytest.mark.zoo
@pytest.mark.spmd
def test_the_command_on_mpi_ranks(tmp_path):
    code = "import sys; from autopar.cli import main; sys.exit(main(sys.argv[1:]))"
    line = [sys.executable, "-c", code, "verify", "--adjoint", "--grid", "1x2", "--json"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=170, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(done.stdout)
    assert [row["primitive"] for row in rows] == NAMES
    assert all(row["worst"] <= row["tolerance"] for row in rows)
