import json

import pytest

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


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"problem": {}}', '{"problem": {"nodes": 1e999}}', "[" * 100_000, "\ud800"]
)
def test_what_is_no_instance_is_refused(tmp_path, capsys, text):
    file = tmp_path / "problem.json"
    file.write_bytes(text.encode(errors="surrogatepass"))
    assert main(["solve", str(file)]) == 1
    assert "IOPDDL" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        {"usage_limit": -1},
        {"nodes": {"intervals": [[3, 0]], "costs": [[1]], "usages": [[1]]}, "edges": {"nodes": [], "costs": []}},
        {"nodes": {"intervals": [[0, 1]], "costs": [[]], "usages": [[]]}, "edges": {"nodes": [], "costs": []}},
        {"nodes": {"intervals": [[0, 1]], "costs": [[-1e999]], "usages": [[1]]}, "edges": {"nodes": [], "costs": []}},
        {"edges": {"nodes": [[0, 9]], "costs": [[1]]}},
        {"edges": {"nodes": [[0, -1]], "costs": [[1, 1]]}},
    ],
)
def test_malformed_problems_are_refused(tmp_path, capsys, changes):
    assert main(["solve", saved(tmp_path, **changes)]) == 1
    assert capsys.readouterr().err.startswith("autopar: ")
