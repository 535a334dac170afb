import gzip
import json

import pytest

from autopar.errors import ConfigError
from autopar.partitioner.contest import read_contest
from autopar.partitioner.solvers.solve import solve

INSTANCE = {
    "problem": {
        "name": "example",
        "nodes": {
            "intervals": [[0, 3], [1, 2], [2, 3]],
            "costs": [[1, 10], [5, 6, 7], [2]],
            "usages": [[50, 10], [60, 40, 20], [30]],
        },
        "edges": {"nodes": [[0, 1], [2, 1]], "costs": [[0, 0, 0, 0, 1000000000000000000, 0], [3, 2, 1]]},
        "usage_limit": 90,
    }
}


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_reads_what_the_contest_wrote(tmp_path, name):
    text = json.dumps(INSTANCE).encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    problem = read_contest(tmp_path / name)
    assert (len(problem.nodes), len(problem.edges), problem.limit) == (3, 2, 90.0)
    assert problem.edges[0].costs[1, 1] == float("inf")
    assert problem.edges[1].costs.shape == (1, 3)
    assert {solve(problem, method).cost for method in ("auto", "ilp", "search", "exhaustive")} == {1 + 6 + 2 + 2}


def test_anything_else_is_refused(tmp_path):
    broken = json.loads(json.dumps(INSTANCE))
    broken["problem"]["edges"]["costs"][0].pop()
    for i, data in enumerate([b"", b"[]", b"{", json.dumps({"problem": {}}).encode(), json.dumps(broken).encode()]):
        path = tmp_path / f"{i}.json"
        path.write_bytes(data)
        with pytest.raises(ConfigError, match="IOPDDL"):
            read_contest(path)
    (tmp_path / "x.json.gz").write_bytes(gzip.compress(json.dumps(INSTANCE).encode())[:-9])
    for name in ("x.json.gz", "missing.json"):
        with pytest.raises(ConfigError):
            read_contest(tmp_path / name)
