"""The benchmark of the zoo predicts and measures, on a tiny model, and knows every family. No time is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from warm_ranks import python

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.spmd
@pytest.mark.zoo
def test_a_family_is_predicted_and_measured():
    command = [sys.executable, "-m", "benchmarks.zoo", "--small", "--json"]
    command += ["--predict", "lstm", "--measure", "lstm", "--rounds", "1", "--steps", "2"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    (row,) = found["predicted"]
    assert row["name"] == "lstm"
    assert row["without_rule"] == 0
    assert row["faster"] == row["one_rank"] / row["two_ranks"]
    (record,) = found["measured"]
    assert [one["contender"] for one in record["contenders"]] == ["single1", "autopar"]
    assert all(one["same_losses"] and len(one["rounds"][0]) == 2 for one in record["contenders"])


def test_every_family_of_the_zoo_has_a_large_size():
    code = "from benchmarks.zoo_models import FAMILIES\nfor name, family in FAMILIES.items():\n    print(name, family.large)"
    listing = python(f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}")
    assert listing.returncode == 0, listing.stderr
    families = dict(line.split(maxsplit=1) for line in listing.stdout.splitlines())
    small = {path.stem.removeprefix("zoo_") for path in (ROOT / "tests" / "zoo" / "models").glob("zoo_*.py")} - {"data"}
    assert set(families) == small
    assert all(Path(path).is_file() for path in families.values())
