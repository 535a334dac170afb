"""Figures 6 to 10: every annotation and every bar come out; settings that say nonsense are refused, all at once."""

import dataclasses
from pathlib import Path

import pytest

from autopar.errors import ConfigError
from autopar.ir import machine
from benchmarks.gholami2018 import equations, figures
from benchmarks.gholami2018.settings import load

PAPER = load()
PANELS = {panel.figure: panel for panel in PAPER.panels}
TEXT = Path(figures.__file__).with_name("gholami2018.toml").read_text("utf-8")


def test_there_are_sixteen_panels_and_116_bars():
    assert len(PANELS) == 16
    assert sum(len(panel.bars) for panel in PAPER.panels) == 116
    assert all(rows * columns == panel.ranks for panel in PAPER.panels for rows, columns in panel.grids)


@pytest.mark.parametrize("figure", PANELS)
def test_a_panel_comes_out(figure):
    panel = PANELS[figure]
    found = figures.match(panel, figures.bars(PAPER, panel))
    limit = 2.5 if figure == "9d" else 1.5
    assert (found.grid, found.speedup, found.communication_speedup) == (True, True, True)
    assert found.total <= limit
    assert found.communication <= limit


@pytest.mark.parametrize("figure", [figure for figure in PANELS if figure not in ("6d", "9d")])
def test_the_line_between_the_summands_comes_out(figure):
    """Not in 6d, where it differs by 3 pixels from that of 7d, which shows the same sums."""
    panel = PANELS[figure]
    assert figures.match(panel, figures.bars(PAPER, panel)).split <= 1.5
    same = [[bar.batch for bar in figures.bars(PAPER, PANELS[one])] for one in ("6d", "7d")]
    assert same[0] == pytest.approx(same[1])


def test_a_wrong_bar_would_be_seen():
    panel = PANELS["7c"]
    given = list(figures.bars(PAPER, panel))
    given[4] = dataclasses.replace(given[4], batch=given[4].batch + 3 * panel.pixel)
    found = figures.match(panel, given)
    assert found.total > 2
    assert found.communication > 2
    assert found.split > 2
    slower = [dataclasses.replace(bar, batch=bar.batch * (1 + place)) for place, bar in enumerate(given)]
    found = figures.match(panel, slower)
    assert not found.grid
    assert not found.communication_speedup


def test_compute_is_nearly_one_number_per_batch_and_rank():
    """The only part of a bar that is read off: 2 percent between the panels with 4 images per rank."""
    seconds = [panel.compute * panel.pixel * panel.ranks for panel in PAPER.panels if panel.batch == 4 * panel.ranks]
    assert len(seconds) == 6
    assert max(seconds) / min(seconds) < 1.025
    measured = dict(zip(PAPER.figure4.batch, PAPER.figure4.seconds, strict=True))
    assert all(1.15 < one / measured[4] < 1.25 for one in seconds)


def test_the_equations_as_printed_pick_other_grids_in_three_panels():
    picked = {name: figures.best(figures.bars(PAPER, panel, "equations")).grid for name, panel in PANELS.items()}
    other = {name: grid for name, grid in picked.items() if grid != PANELS[name].best}
    assert other == {"6a": "2x4", "10b": "128x8", "10d": "256x16"}


def test_model_parallelism_in_all_layers_would_pick_4x128():
    """Figure 6d as its text says, by equation 8, added up by hand."""
    panel = PANELS["6d"]
    given = figures.bars(PAPER, panel, "text")
    total, communication = figures.speedups(given)
    assert figures.best(given).grid == "4x128"
    assert (round(total, 1), round(communication, 1)) == (1.6, 2.2)
    layers = (*PAPER.convolutions, *PAPER.connected)
    step = equations.integrated(layers, PAPER.wire, 2048, 4, 128)
    assert given[2].communication == pytest.approx(step * 1.2e6 / 2048)


def test_bars_are_equation_9_where_nothing_deviates():
    for figure in ("6c", "7c"):
        panel = PANELS[figure]
        for bar in figures.bars(PAPER, panel, "equations"):
            rows, columns = bar.rows, bar.columns
            if figure == "6c":
                step = equations.full(PAPER.connected, PAPER.convolutions, PAPER.wire, panel.batch, rows, columns)
            else:
                step = equations.integrated(PAPER.connected, PAPER.wire, panel.batch, rows, columns)
                step += equations.batch(PAPER.convolutions, PAPER.wire, panel.ranks)
            assert bar.communication == pytest.approx(step * PAPER.images / panel.batch)


def test_overlap_hides_no_more_than_there_is():
    plain = dataclasses.replace(PANELS["8"], overlap=False)
    for reading in figures.READINGS:
        for bar, whole in zip(
            figures.bars(PAPER, PANELS["8"], reading), figures.bars(PAPER, plain, reading), strict=True
        ):
            assert max(bar.compute, whole.communication / 3) <= bar.total + 1e-9 or reading != "text"
            assert bar.compute <= bar.total <= whole.total


def test_the_network_is_alexnet_and_the_link_is_the_profiles():
    weights = sum(layer.weights for layer in (*PAPER.convolutions, *PAPER.connected))
    assert weights == 2_332_704 + 58_621_952
    profile = machine.load("knl")
    assert profile.intra == profile.inter == PAPER.wire


def refused(tmp_path, text):
    path = tmp_path / "paper.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError) as error:
        load(path)
    return str(error.value)


def test_what_is_wrong_is_said_at_once(tmp_path):
    text = TEXT.replace("word_bytes = 4", "words = 4").replace("alpha = 2e-6", "alpha = -1.0")
    text = text.replace("groups = 2", 'groups = "two"', 1).replace("ranks = 32\n", "ranks = 0\n", 1)
    message = refused(tmp_path, text.replace('text = "two thirds"', 'text = "half"'))
    assert "6 entries are wrong" in message
    for one in (
        "words: unknown; did you mean 'word_bytes'?",
        "word_bytes: missing",
        "link.alpha: Expected `float` >= 0.0",
        "layers[1].groups: Expected `int`, got `str`",
        "panels[1].ranks: Expected `int` >= 1",
        "panels[8].text: Invalid enum value 'half'",
    ):
        assert one in message
    assert message.splitlines()[-1].startswith("  fix: ")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('best = "4x8"', 'best = "5x8"', "panels[1].best: '5x8' is none of its grids 1x32, 2x16"),
        ('figure = "6b"', 'figure = "6a"', "panels: '6a' stands twice"),
        ("ranks = 32\n", "ranks = 33\n", "panels[1].ranks: 33 are not 2 rows times whole columns"),
        ('name = "conv2"', 'name = "conv1"', "layers: 'conv1' stands twice"),
        ('redistributed = ["fc6"]', 'redistributed = ["fc9"]', "drawn.redistributed: no layer 'fc9'; did you mean"),
        ("conv2 = 55", "pool2 = 55", "drawn.input_width: no layer 'pool2'"),
        ("groups = 2", "groups = 5", "layers[1].groups: 5 does not divide the channels of conv2"),
        ('beta = "6GiB"', 'beta = "6 parsec"', "link.beta: '6 parsec' is not a positive number of bytes per second"),
        ("batch = [1, 2,", "batch = [2,", "figure4: as many batch sizes as seconds are needed"),
        ("[link]", "[[link]]", "link: [{'alpha': 2e-06, 'beta': '6GiB'}] is not a table"),
        ("images = 1_200_000", "images = ", "not TOML"),
    ],
)
def test_nonsense_is_refused(tmp_path, old, new, said):
    assert old in TEXT
    assert said in refused(tmp_path, TEXT.replace(old, new, 1))


def test_a_list_of_tables_is_a_list(tmp_path):
    assert "panels: 3 is not a list of tables" in refused(tmp_path, "panels = 3\n" + TEXT[: TEXT.index("[[panels]]")])


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.toml")
