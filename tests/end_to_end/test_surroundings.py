"""Models whose operators look at a pixel's surroundings, or at all of space, compute what the sequential model computes.

As in `test_models`; batches of two on three ranks see to it that space or channels are split.
"""

from pathlib import Path

import pytest
from compiling import compiled_file, verified

MODELS = Path(__file__).parent / "models"


@pytest.mark.parametrize(
    ("name", "grid", "names"),
    [
        ("segments", "3", ("conv", "pad", "group_norm", "max_pool", "batch_norm", "interpolate", "avg_pool")),
        ("spectral", "3", ("all_to_all", "torch.fft.rfft", "torch.conj_physical")),
    ],
)
def test_the_program_computes_what_the_model_computes(tmp_path, name, grid, names):
    folder = compiled_file(MODELS / f"small_{name}.py", grid, tmp_path / "build", name, any_rows=False)
    path = folder / "program.py"
    text = path.read_text()
    assert [one for one in names if f"{one}(" not in text] == []
    differences = verified(path, grid)
    assert len(differences) == 9
    assert [one for one in differences if not one.relative <= one.tolerance] == []
