import gzip
import json

import pytest
from cli_case import run

from autopar.cli import main

PROBLEM = {
    "problem": {
        "nodes": {
            "intervals": [[0, 3], [1, 2], [2, 3]],
            "costs": [[1, 10], [5, 6, 7], [2]],
            "usages": [[50, 10], [60, 40, 20], [30]],
        },
        "edges": {"nodes": [[0, 1], [2, 1]], "costs": [[0, 0, 0, 0, 1000000000000000000, 0], [3, 2, 1]]},
        "usage_limit": 90,
    }
}


def saved(folder, **changes):
    file = folder / "problem.json"
    file.write_text(json.dumps({"problem": {**PROBLEM["problem"], **changes}}))
    return str(file)


def test_json_holds_one_object(tmp_path, capsys):
    assert main(["solve", saved(tmp_path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert sorted(facts) == ["bound", "cost", "gap", "method", "seconds", "solution"]
    assert (facts["cost"], facts["bound"], facts["gap"]) == (11.0, 11.0, 0.0)
    assert facts["solution"] in ([0, 1, 0], [0, 2, 0])  # both cost 11


def test_for_people(tmp_path, capsys):
    assert main(["solve", saved(tmp_path), "--time-limit", "5"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (lines["cost"], lines["gap"]) == ("11", "0.00%")
    assert set(lines) == {"cost", "bound", "gap", "method", "seconds"}


def test_what_does_not_fit_is_told_with_the_nearest_limit(tmp_path, capsys):
    assert main(["solve", saved(tmp_path, usage_limit=35)]) == 1
    message = capsys.readouterr().err
    assert "raise the limit to 40" in message
    assert "5 above the limit" in message


NODES, EDGES = PROBLEM["problem"]["nodes"], PROBLEM["problem"]["edges"]


def refused(file):
    """One message with what was given, the rule and the fix, and no traceback."""
    status, out, err = run("solve", file, "--time-limit", "5")
    assert (status, out) == (1, ""), err
    assert err.startswith(f"autopar: {file}: ") or err.startswith("autopar: partition problem: ")
    assert "Traceback" not in err
    assert "\n  rule: " in err
    return err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "not such a file: Input data was truncated"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{", "truncated"),
        (b'{"problem": {}}', "missing required field `nodes`"),
        (b'{"problem": {"nodes": 1e999}}', "not such a file"),
        (b"[" * 100_000, "not such a file"),
        (b'{"problem":' * 50_000, "nested too deeply"),
        (b'{"problem": "\xff"}', "not UTF-8: byte 13 is 0xff"),
        (b"\xed\xa0\x80", "not UTF-8: byte 0 is 0xed"),
        (b"\x00" * 100, "not such a file: JSON is malformed"),
        (json.dumps(PROBLEM).encode() + b"x", "trailing characters"),
        (gzip.compress(json.dumps(PROBLEM).encode(), mtime=0)[:40], "gzipped, and damaged: Compressed file ended"),
        (b"\x1f\x8b" + b"\x00" * 40, "gzipped, and damaged"),
        (gzip.compress(b" " * 2**24, mtime=0), "truncated"),
    ],
    ids=lambda case: str(case[:20]),
)
def test_what_is_no_instance_is_refused(tmp_path, text, said):
    file = tmp_path / "problem.json"
    file.write_bytes(text)
    assert said in refused(file)


def test_what_cannot_be_read_is_refused(tmp_path):
    assert "there is no such file" in refused(tmp_path / "nothing.json")
    assert "cannot be read: Is a directory" in refused(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[1, 10]", "[NaN, 10]", "JSON is malformed"),
        ("[1, 10]", "[1e999, 10]", "Number out of range"),
        ("[1, 10]", "[-Infinity, 10]", "JSON is malformed"),
        ("[1, 10]", '["1", 10]', "Expected `float`, got `str`"),
        ("[1, 10]", "[" + "9" * 5000 + ", 10]", "Number out of range"),
        ("[0, 3]", "[0.5, 3]", "Expected `int`, got `float`"),
        ("[0, 3]", "[0, 99999999999999999999]", "node 0: the interval [0, 99999999999999999999] is out of range"),
        ("[0, 3]", "[-3, 3]", "node 0: the interval [-3, 3] is negative"),
        ("[0, 3]", "[0, null]", "Expected `int`, got `null`"),
    ],
)
def test_numbers_that_are_none_are_refused(tmp_path, old, new, said):
    text = json.dumps(PROBLEM)
    assert text.count(old) == 1
    (tmp_path / "problem.json").write_text(text.replace(old, new))
    assert said in refused(tmp_path / "problem.json")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"usage_limit": -1}, "the limit is -1.0"),
        ({"usage_limit": None}, "Expected `float`, got `null`"),
        (
            {"nodes": NODES | {"intervals": [[3, 0], [1, 2], [2, 3]]}},
            "node 0: the interval [3, 0] is negative, or runs",
        ),
        ({"nodes": NODES | {"intervals": [[0, 3]]}}, "nodes: 1 intervals, 3 costs, 3 usages"),
        ({"nodes": NODES | {"costs": [[], [5, 6, 7], [2]]}}, "node 0: no strategies"),
        ({"nodes": NODES | {"usages": [[10], [1, 2, 3], [4]]}}, "node 0: 2 costs and 1 usages"),
        ({"nodes": NODES | {"usages": [[-10, 10], [1, 2, 3], [4]]}}, "memory that is negative"),
        ({"nodes": NODES | {"costs": [[-1e308, -1e308], [-1e308] * 3, [0]]}}, "the costs overflow"),
        ({"nodes": NODES | {"usages": [[1e308, 1e308], [1e308] * 3, [0]]}}, "the memory overflow"),
        ({"nodes": NODES | {"costs": [[1e18, 1e18], [5, 6, 7], [2]]}}, "every choice is forbidden"),
        ({"edges": {"nodes": [[0, 9]], "costs": [[1]]}}, "edge 0: node 9 is none of the 3"),
        ({"edges": {"nodes": [[0, -1]], "costs": [[1, 1]]}}, "edge 0: node -1 is none of the 3"),
        ({"edges": {"nodes": [[0, 0]], "costs": [[1, 2, 3, 4]]}}, "edge 0-0 joins a node with itself"),
        ({"edges": {"nodes": [[0, 1]], "costs": [[1, 2, 3]]}}, "edge 0: 3 costs for 2 x 3 strategies"),
        ({"edges": {"nodes": [[0, 1]], "costs": []}}, "edges: 1 nodes, 0 costs"),
    ],
)
def test_malformed_problems_are_refused(tmp_path, changes, said):
    assert said in refused(saved(tmp_path, **changes))


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    nodes = {"intervals": [[5, 1]] * 20, "costs": [[]] * 20, "usages": [[]] * 20}
    text = refused(saved(tmp_path, nodes=nodes, edges={"nodes": [], "costs": []}))
    assert text.count("  - ") == 11
    assert "and 30 more" in text


def test_a_gzipped_instance_needs_no_name_of_its_own(tmp_path, capsys):
    file = tmp_path / "problem.json"
    file.write_bytes(gzip.compress(json.dumps(PROBLEM).encode(), mtime=0))
    assert main(["solve", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gap"] == 0
