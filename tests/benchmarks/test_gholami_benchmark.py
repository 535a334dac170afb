"""The paper's benchmark prints all panels, draws every bar to scale, and finds plans no dearer than the paper's."""

import dataclasses
import json
import re
import sys
from xml.etree import ElementTree

import pytest

from benchmarks.gholami2018 import __main__ as main
from benchmarks.gholami2018 import figures, picture, planner
from benchmarks.gholami2018.settings import load

PAPER = load()


def test_json_and_picture(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["gholami2018.py", "--json", "--picture", str(tmp_path / "bars.svg")])
    main.main()
    found = json.loads(capsys.readouterr().out)
    assert len(found["panels"]) == 16
    assert all(panel["drawn"]["comes_out"] for panel in found["panels"])
    assert sum(len(panel["drawn"]["bars"]) for panel in found["panels"]) == 116
    assert [panel["figure"] for panel in found["panels"] if "text" in panel] == ["6a", "6b", "6c", "6d", "8"]
    assert found["deviations"]["connected_words"]["equations"] == 9192
    assert found["deviations"]["halo_words"] == {"equations": 75_437, "drawn": 161_626}
    assert 1.1 < min(found["deviations"]["compute_over_figure4"].values()) < 1.2
    assert (tmp_path / "bars.svg").read_text("utf-8").startswith("<svg")


def test_settings_of_a_user_are_refused_in_words(monkeypatch, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("image = 3\n", "utf-8")
    monkeypatch.setattr(sys, "argv", ["gholami2018.py", "--settings", str(path)])
    with pytest.raises(SystemExit, match=r"image: unknown; did you mean 'images'\?"):
        main.main()


def test_bars_are_drawn_to_scale():
    """Each panel: published and computed stacks in turn, as high as their totals, standing on the ground."""
    space = "{http://www.w3.org/2000/svg}"
    root = ElementTree.fromstring(picture.svg(PAPER))
    groups = root.findall(f"{space}g")
    assert len(groups) == 16
    for group, panel in zip(groups, PAPER.panels, strict=True):
        rects = [{key: one.get(key) for key in ("x", "y", "height")} for one in group.findall(f"{space}rect")]
        stacks: dict[str, float] = {}
        for one in rects:
            stacks[one["x"]] = stacks.get(one["x"], 0.0) + float(one["height"])
        pairs = zip(figures.published(panel), figures.bars(PAPER, panel), strict=True)
        totals = [bar.total for pair in pairs for bar in pair]
        assert len(stacks) == len(totals)
        most = max(totals) * 1.05
        assert list(stacks.values()) == pytest.approx([picture.PLOT_HEIGHT * one / most for one in totals], abs=0.05)
        ground = {round(float(one["y"]) + float(one["height"]), 1) for one in rects}
        assert picture.TOP + picture.PLOT_HEIGHT in ground
        assert max(ground) == picture.TOP + picture.PLOT_HEIGHT
        words = " ".join(one.text or "" for one in group.findall(f"{space}text"))
        assert re.search(rf"figure {panel.figure}: .* best {panel.best},", words)


def test_tables_say_what_comes_out():
    records = [main.record(PAPER, panel) for panel in PAPER.panels]
    cells = [list(column.cells) for column in main.panels_table(records).columns]
    assert cells[-1] == ["yes"] * 16
    assert cells[3][3] == "16x32 2.1 (5.0)"
    assert cells[4][3] == "16x32 2.14 (4.97)"
    assert main.bars_table(records[0]).row_count == 4
    text = main.deviations_text(PAPER)
    assert "161,626 words per image instead of 75,437" in text
    assert "6a, 6b, 6c, 6d: " in text


def test_the_planner_on_eight_ranks():
    """No plan of the paper's is cheaper than the pick; two of the four grids, to be quick."""
    panel = next(one for one in PAPER.panels if one.figure == "7a")
    panel = dataclasses.replace(panel, bars=panel.bars[:2], best="2x4")
    (found,) = planner.compare(dataclasses.replace(PAPER, panels=(panel,)))
    assert found.paper.summary == "conv1-conv5 n.n, fc6-fc8 b0.n"
    assert found.pick.total <= found.paper.total
    assert [plan.grid for plan in found.plans] == ["data=8,model=1", "data=4,model=2"]
    record = planner.record(found)
    assert json.loads(json.dumps(record))["pick"]["total"] == found.pick.total
    assert planner.table([found]).row_count == 1
    assert f"8 ranks, {found.pick.grid}: conv1" in planner.choices([found])


def test_the_papers_plan_where_images_are_cut():
    panel = next(one for one in PAPER.panels if one.figure == "10b")
    plan = planner.price(PAPER, panel, planner.grid_of(panel, 64, 16), planner.pins_of(panel))
    assert plan.grid == "data=16,model=32,domain=2"
    assert plan.summary == "conv1-conv5 n.n.h, fc6-fc8 b0.n.n"
