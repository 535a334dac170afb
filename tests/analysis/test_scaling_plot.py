"""Pictures of scaling curves: every text lies inside, and none on another or on a curve."""

import itertools
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest

from autopar.analysis.scaling import Point
from autopar.analysis.scaling_plot import HEIGHT, WIDTH, svg

RANKS = [2**power for power in range(13)]
SHARES = {  # efficiency at p ranks
    "linear": lambda p: 1.0,
    "amdahl": lambda p: 1 / (1 + 0.01 * (p - 1)),
    "falling": lambda p: 1 / (1 + 1e-4 * p * p),
    "slower": lambda p: 0.4 if p > 1 else 1.0,
    "a hair below one": lambda p: 0.999,
}


def points(kind, share, ranks=RANKS):
    found = []
    for p in ranks:
        seconds = 1.0 / SHARES[share](p) / (p if kind == "strong" else 1)
        plan = SimpleNamespace(grid=f"{p // 4}x4" if p > 4 else str(p))
        found.append(Point(kind, p, 512 * (p if kind == "weak" else 1), plan, 1.0, seconds))
    return found


def elements(picture, kind):
    return [one for one in ET.fromstring(picture).iter() if one.tag.endswith("}" + kind)]


def box(text):
    """Left, top, right, bottom, with letters as wide as those of a wide font."""
    size = float(text.get("font-size"))
    width = 0.6 * size * len(text.text)
    x, y = float(text.get("x")), float(text.get("y"))
    left = x - {"start": 0, "middle": width / 2, "end": width}[text.get("text-anchor")]
    return left, y - 0.75 * size, left + width, y


def places(line):
    ends = [tuple(map(float, one.split(","))) for one in line.get("points").split()]
    for (x, y), (to_x, to_y) in itertools.pairwise(ends):
        yield from ((x + (to_x - x) * k / 50, y + (to_y - y) * k / 50) for k in range(51))


@pytest.mark.parametrize("strong", SHARES)
@pytest.mark.parametrize("weak", [None, "linear", "a hair below one"])
def test_texts_are_apart_and_inside(strong, weak):
    picture = svg("a model on a machine, predicted", points("strong", strong) + (points("weak", weak) if weak else []))
    texts = elements(picture, "text")
    boxes = {f"{one.text} {place}": box(one) for place, one in enumerate(texts)}
    assert len(boxes) > 30
    assert not [
        name for name, (left, top, right, low) in boxes.items() if left < 0 or top < 0 or right > WIDTH or low > HEIGHT
    ]
    apart = [a for (a, one), (b, other) in itertools.combinations(boxes.items(), 2) if one[0] < other[2]
             and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]]  # fmt: skip
    assert apart == []
    colours = {one.get("points"): one.get("stroke") for one in elements(picture, "polyline")}
    grids = [one for one in texts if one.get("fill") in ("#b04848", "#4878a8")]
    crossed = [one.text for one in grids for line in elements(picture, "polyline")
               if colours[line.get("points")] == one.get("fill")
               for x, y in places(line) if box(one)[0] < x < box(one)[2] and box(one)[1] < y < box(one)[3]]  # fmt: skip
    assert grids
    assert crossed == []


def names(picture):
    return [one.text for one in elements(picture, "text")]


def test_the_scale_begins_at_one_where_only_rounding_is_below():
    assert "0.5" not in names(svg("a", points("strong", "a hair below one")))
    assert "0.5" in names(svg("a", points("strong", "slower", [1, 2])))


def test_long_axes_name_every_other_power():
    named = names(svg("a", points("strong", "linear", [1, 2**20])))
    assert "1048576" in named
    assert named.count("4") == 2  # of ranks, of speed-ups
    assert "2" not in named


def test_grids_of_the_same_ranks_stand_below_each_other_and_the_best_one_on_the_curve():
    plans = {grid: SimpleNamespace(grid=grid) for grid in ("32", "8x4", "4x8", "2x16")}
    found = [Point("strong", 32, 64, plan, 1.0, 1 / (20 + place % 3)) for place, plan in enumerate(plans.values())]
    picture = svg("a", [*points("strong", "linear", [1, 8]), *found])
    heights = {one.text: box(one)[3] for one in elements(picture, "text") if one.text in ("8x4", "4x8", "2x16")}
    assert heights["8x4"] - heights["4x8"] == 9
    assert heights["2x16"] - heights["8x4"] == 2 * 9
    curve = next(one for one in elements(picture, "polyline") if one.get("stroke") == "#b04848")
    best = next(one for one in elements(picture, "circle") if one[0].text.startswith("32 ranks, 4x8"))
    assert curve.get("points").endswith(f" {best.get('cx')},{best.get('cy')}")


def test_the_legend_says_what_the_batch_is():
    words = " ".join(
        one.text for one in elements(svg("a", points("strong", "amdahl") + points("weak", "linear")), "text")
    )
    assert "strong scaling: a batch of 512 on all ranks together" in words
    assert "weak scaling: a batch of 512 on every rank" in words
