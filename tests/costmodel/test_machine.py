import itertools
import tomllib
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopar.costmodel.machine import WORKS, Link, Machine, axis_links, load, parse_bytes, shipped
from autopar.errors import ConfigError
from autopar.grid import GridShape

TEXT = (resources.files("autopar.configs") / "machines" / "cpu.toml").read_text("utf-8")


def written(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def test_the_profiles_that_ship():
    assert shipped() == ("cpu", "h100", "h200", "knl")


@pytest.mark.parametrize("name", ["cpu", "h100", "h200", "knl"])
def test_every_shipped_profile_loads_and_is_usable(name):
    machine = load(name)
    assert machine.name == name
    assert hash(machine) == hash(load(name))
    assert all(machine.rate(work, dtype) > 0 for work in WORKS for dtype in ("float32", "float64", "int64", "bool"))
    assert machine.inter.beta <= machine.intra.beta
    assert machine.inter.alpha >= machine.intra.alpha


def test_the_paper_s_machine():
    assert load("knl").inter == Link(2e-6, 6 * 2**30)


def test_a_file_is_read_as_a_profile_is(tmp_path):
    assert load(written(tmp_path, TEXT)) == load("cpu")
    assert load(str(written(tmp_path, TEXT))) == load("cpu")


def test_numbers_and_text_say_the_same(tmp_path):
    same = TEXT.replace('"8GiB"', str(8 * 2**30)).replace("beta = 6e9", 'beta = "6GB"')
    assert same.count("6GB") == 1
    assert load(written(tmp_path, same)) == load("cpu")


def test_rates_are_peak_times_efficiency():
    machine = load("h100")
    assert machine.rate("matmul", "bfloat16") == pytest.approx(9.89e14 * 0.7)
    assert machine.rate("matmul", "int64") == machine.rate("matmul", "float32")


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean 'h100'") as caught:
        load("h10O")
    assert "cpu, h100, h200, knl" in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.toml")


def test_a_file_that_is_not_toml(tmp_path):
    with pytest.raises(ConfigError, match="not TOML"):
        load(written(tmp_path, "name = = 1"))


def test_all_offenders_are_listed_at_once(tmp_path):
    text = TEXT.replace("launch_floor", "lunch_floor").replace("overlap = 0.0", "overlap = 1.5")
    text = (
        text.replace("beta = 6e9", 'beta = "fast"').replace("alpha = 1e-4", "alpha = -1").replace("conv = 0.55\n", "")
    )
    text = text.replace("ranks_per_node = 64", "ranks_per_node = 2.5").replace("float64 = 1e11", "float65 = nan")
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text))
    message = str(caught.value)
    for part in (
        "lunch_floor: unknown; did you mean 'launch_floor'?",
        "launch_floor: missing",
        "overlap: 1.5 is not a number from 0 to 1",
        "intra.beta: 'fast' is not a positive number of bytes per second",
        "inter.alpha: -1 is not a number of at least 0",
        "efficiency.conv: missing",
        "ranks_per_node: 2.5 is not a whole number",
        "flops.float65: unknown; did you mean 'float64'?",
        "8 entries are wrong",
    ):
        assert part in message


@pytest.mark.parametrize("bad", ["true", '"x"', "-1", "nan", "inf", "0", "[]"])
@pytest.mark.parametrize("key", ["memory_bandwidth", "float32", "matmul"])
def test_a_rate_is_a_positive_number(tmp_path, key, bad):
    lines = [f"{key} = {bad}" if line.startswith(f"{key} =") else line for line in TEXT.splitlines()]
    assert "\n".join(lines) != TEXT.strip()
    with pytest.raises(ConfigError, match=key):
        load(written(tmp_path, "\n".join(lines)))


@pytest.mark.parametrize("key", [*tomllib.loads(TEXT)])
def test_every_entry_is_needed(tmp_path, key):
    table = tomllib.loads(TEXT)
    lines = TEXT.splitlines()
    if isinstance(table[key], dict):
        lines = [line.replace(f"[{key}]", f"[{key}_]") for line in lines]
    else:
        lines = [line for line in lines if not line.startswith(f"{key} =")]
    with pytest.raises(ConfigError, match=key):
        load(written(tmp_path, "\n".join(lines)))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("12GiB", 12 * 2**30),
        ("1.5 GB", 1_500_000_000),
        ("512MiB", 2**29),
        ("7", 7),
        (" 3 kB ", 3000),
        (4096, 4096),
        (1e9, 10**9),
        ("2e3B", 2000),
        ("1tib", 2**40),
    ],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "12 GiBs", "12 XB", "one", True, "1,5GB", "inf", "nan"])
def test_what_is_not_a_size(text):
    with pytest.raises(ConfigError, match="unit"):
        parse_bytes(text)


def machine(ranks_per_node):
    works = tuple((work, 1.0) for work in sorted(WORKS))
    return Machine("m", ranks_per_node, 1, 1.0, 0.0, 0.0, Link(1.0, 1.0), Link(2.0, 2.0), (("float32", 1.0),), works)


@given(st.integers(1, 9), st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_an_axis_is_inside_where_each_group_shares_a_node(ranks_per_node, sizes):
    grid = GridShape(tuple(f"a{i}" for i in range(len(sizes))), tuple(sizes))
    node = {p: i // ranks_per_node for i, p in enumerate(itertools.product(*map(range, sizes)))}
    links = axis_links(machine(ranks_per_node), grid)
    for axis, link in enumerate(links):
        groups = {}
        for position, at in node.items():
            groups.setdefault(position[:axis] + position[axis + 1 :], set()).add(at)
        assert (link.alpha == 1.0) == all(len(group) == 1 for group in groups.values())


def test_links_of_a_cluster():
    inside, across = load("h100").intra, load("h100").inter
    assert axis_links(load("h100"), GridShape.parse("4x8")) == (across, inside)
    assert axis_links(load("h100"), GridShape.parse("2x4")) == (inside, inside)
    assert axis_links(load("h100"), GridShape.parse("2x3x4")) == (across, across, inside)
