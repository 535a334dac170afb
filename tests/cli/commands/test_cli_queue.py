"""Plans whose micro-batches are drawn from a queue: what compile, inspect and simulate say of them."""

import json

from cli_case import NET, done, refused, write

import autopar


def test_a_queue_is_asked_for_by_an_option_or_by_the_grid(tmp_path):
    model = write(tmp_path, NET)
    folder, other = tmp_path / "option", tmp_path / "grid"
    said = done("compile", model, "--grid", "data=2", "--queue", "-o", folder)
    assert "4 micro-batches drawn over data" in said
    facts = json.loads(done("compile", model, "--grid", "data=queue:2", "--microbatches", 4, "-o", other, "--json"))
    assert facts["grid"] == "data=queue:2"
    source = (folder / "program.py").read_text()
    assert source == (other / "program.py").read_text()
    assert 'Grid("data=queue:2")' in source
    assert "microbatches=4" in source
    assert "4 of up to 2 rows, which 2 replicas draw from the queue data" in " ".join(done("inspect", folder).split())
    plan = autopar.load_plan(folder)
    slow = json.loads(done("simulate", folder, "--slow", "1:3", "--json"))
    assert slow["even_seconds"] < slow["step_seconds"] < 3 * slow["even_seconds"]
    assert slow["ranks"] == 2
    assert abs(slow["even_seconds"] - plan.predicted.seconds) < 1e-9


def test_a_place_axis_has_no_queue(tmp_path):
    model = write(tmp_path, NET)
    assert "a queue beside a place axis" in refused("compile", model, "--grid", "stage:2", "--queue")
