"""The partitioner on the instances of the IOPDDL contest, beside the published results.

    python -m benchmarks.iopddl FOLDER [NAME ...]

The folder holds instances, ``B.json.gz`` and so on, and ``results.csv`` with a line of costs for each team (and XLA). Every
instance gets the contest's time, reading included, in a process of its own. Points: best published cost / ours; a team's own
points are the best cost / its own. Instances and results: github.com/google/iopddl.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.options import described

SECONDS = {**dict.fromkeys("ABCDE", 60), **dict.fromkeys("FGHIJ", 120), **dict.fromkeys("KLMNO", 180)}
SECONDS |= {**dict.fromkeys("PQRST", 240), **dict.fromkeys("UVWXY", 300)}


def published(table: Path) -> dict[str, list[float]]:
    """The costs of the teams, best first, by instance."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name in SECONDS]
    return {name: sorted(float(row[name]) for row in rows if _is_number(row[name])) for name in names}


def _is_number(text: str | None) -> bool:
    try:
        return float(text or "nan") > 0
    except ValueError:
        return False


def solve(instance: Path, seconds: float) -> dict[str, object]:
    """What `autopar solve --json` says."""
    main = "import autopar.cli as cli; raise SystemExit(cli.main())"
    command = [sys.executable, "-c", main, "solve", str(instance), "--time-limit", str(seconds), "--json"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise SystemExit(f"{instance.name}: {answer.stderr}")
    facts: dict[str, object] = json.loads(answer.stdout)
    return facts


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of instances (all that are there)")
    options = parser.parse_args()
    files = {file.name.split(".")[0]: file for file in sorted(options.folder.glob("*.json*"))}
    best, points = published(options.folder / "results.csv"), []
    print(
        f"{'':2}{'cost':>22}{'bound':>22}{'gap':>9}{'best published':>22}{'points':>9}{'seconds':>9}{'allowed':>9}  method"
    )
    for name in options.names or files:
        facts = solve(files[name], SECONDS[name])
        cost, bound, gap = (float(str(facts[key] or "nan")) for key in ("cost", "bound", "gap"))
        points.append(best[name][0] / cost)
        print(
            f"{name:2}{cost:22,.0f}{bound:22,.0f}{gap if facts['gap'] else 0:9.2%}{best[name][0]:22,.0f}{points[-1]:9.4f}"
            f"{float(str(facts['seconds'])):9.1f}{SECONDS[name]:9}  {facts['method']}",
            flush=True,
        )
    print(f"mean points {sum(points) / len(points):.4f}")


if __name__ == "__main__":
    main()
