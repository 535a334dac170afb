"""The zoo while boundaries move: cuts of all axes drawn between and within steps change nothing that is computed.

Parameters, buffers and AdamW's state are those of the sequential model after some steps, in float64.
"""

from pathlib import Path

import pytest
from compiling import compiled_file
from moved import differences

MODELS = Path(__file__).parent / "models"
NAMES = tuple(sorted(path.stem.removeprefix("zoo_") for path in MODELS.glob("zoo_*.py") if path.stem != "zoo_data"))
EVERY_TIME = {("lstm", "2x2")}
PAIRS = [
    pytest.param(name, grid, marks=() if (name, grid) in EVERY_TIME else pytest.mark.zoo)
    for name in NAMES
    for grid in ("2", "4", "2x2")
]


@pytest.mark.parametrize(("name", "grid"), PAIRS)
def test_a_family_computes_the_same_while_its_axes_are_cut_elsewhere(tmp_path, name, grid):
    folder = compiled_file(MODELS / f"zoo_{name}.py", grid, tmp_path / "build", name)
    for seed in range(1 if (name, grid) in EVERY_TIME else 3):
        wrong, moves = differences(folder, grid, seed)
        assert len(moves) > 2
        assert any(sum(sent) for _, sent, _ in moves) or not any(
            "shard" in line for line in (folder / "plan.json").read_text()
        )
        assert wrong == [], (seed, moves)


@pytest.mark.zoo
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("grid", ["stage:2", "stage:3", "stage:2x2"])
def test_a_family_computes_the_same_while_its_segments_stand_elsewhere(tmp_path, name, grid):
    folder = compiled_file(MODELS / f"zoo_{name}.py", grid, tmp_path / "build", name, segments=2)
    for seed in range(2):
        wrong, moves = differences(folder, grid, seed)
        assert sum(bool(places) for *_, places in moves) > 2
        assert wrong == [], (seed, moves)
