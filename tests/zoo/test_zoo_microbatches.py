"""The zoo in micro-batches: what a family computes of a batch, it computes of two micro-batches, or is refused by name."""

from pathlib import Path

import pytest
from compiling import compiled_file, verified

from autopar.errors import ConfigError
from autopar.runtime.verification.verify import CASES

MODELS = Path(__file__).parent / "models"
REFUSED = {
    "resnet": "statistics of the whole batch",
    "segformer": "statistics of the whole batch",
    "unet3d": "of a batch of 1 row",
}
NAMES = sorted(path.stem.removeprefix("zoo_") for path in MODELS.glob("zoo_*.py") if path.stem != "zoo_data")
ADAMW = CASES[1:2]


@pytest.mark.zoo
@pytest.mark.parametrize("name", NAMES)
def test_a_family_computes_the_same_in_micro_batches(tmp_path, name):
    path = MODELS / f"zoo_{name}.py"
    if name in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[name]):
            compiled_file(path, "2", tmp_path / "build", name, microbatches=2)
        return
    folder = compiled_file(path, "2", tmp_path / "build", name, microbatches=2)
    found = verified(folder / "program.py", "2", ADAMW, 2)
    assert {one.what for one in found} == {"losses", "gradients", "state"}
    assert [one for one in found if not one.relative <= one.tolerance] == []
