import dataclasses
import itertools
import tomllib
from importlib import resources

import pytest

from autopar.errors import ConfigError
from autopar.ir import machine as machines
from autopar.ir import machine_toml
from autopar.ir.grid import GridShape
from autopar.ir.machine import WORKS, Fit, Link, load, parse_bytes, shipped

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


MORE = """
cores_per_node = 4
nodes = 2
overlap_inter = 0.9
"""
TABLES = """
[efficiency_backward]
conv = 0.3

[update]
adamw = "9GB"

[fits.local]
slice = {alpha = 2e-5, beta = [1e10]}

[fits.intra]
ranks = 2
gather = {alpha = 2e-5, until = ["64KiB", "1MiB"], beta = [1e9, 5e9, 2e9]}

[fits.inter]
ranks = 3
sum = {alpha = 1e-4, beta = ["125MB"]}
"""


def full(tmp_path, more=MORE, tables=TABLES):
    return written(tmp_path, more + TEXT + tables)


def test_optional_parts(tmp_path):
    machine = load(full(tmp_path))
    assert (machine.cores_per_node, machine.nodes, machine.overlap_inter) == (4, 2, 0.9)
    assert machine.rate("conv", "float32") == pytest.approx(2e11 * 0.55)
    assert machine.rate("conv", "float32", backward=True) == pytest.approx(2e11 * 0.3)
    assert machine.rate("matmul", "float32", backward=True) == machine.rate("matmul", "float32")
    assert (machine.update_rate("adamw"), machine.update_rate("sgd")) == (9e9, machine.memory_bandwidth)
    assert machine.fit("intra", "gather") == Fit("intra", "gather", 2, 2e-5, (65536.0, 2.0**20), (1e9, 5e9, 2e9))
    assert machine.fit("inter", "gather") is None
    assert machine.fit("inter", "sum").ranks == 3
    assert hash(machine) == hash(load(full(tmp_path)))
    plain = load("cpu")
    assert (plain.cores_per_node, plain.nodes, plain.overlap_inter, plain.fits) == (None, None, None, ())
    assert plain.rate("conv", "float32", backward=True) == plain.rate("conv", "float32")


def test_pieces_meet():
    pieces = Fit("intra", "gather", 2, 2e-5, (65536.0, 2.0**20), (1e9, 5e9, 2e9)).pieces()
    assert [until for until, _, _ in pieces] == [65536.0, 2.0**20, float("inf")]
    for (until, alpha, beta), (_, more, rate) in itertools.pairwise(pieces):
        assert alpha + until / beta == pytest.approx(more + until / rate)


def test_a_profile_is_its_table(tmp_path):
    for machine in (load("h100"), load(full(tmp_path))):
        machines.check(machine)
        assert machines._record(machines.table(machine), "again") == machine
    with pytest.raises(ConfigError, match="launch_floor: -1"):
        machines.check(dataclasses.replace(load("cpu"), launch_floor=-1.0))


@pytest.mark.parametrize(
    ("before", "behind", "said"),
    [
        ("cores_per_node = 4", "cores_per_nod = 4", "cores_per_nod: unknown; did you mean 'cores_per_node'?"),
        ("nodes = 2", "nodes = 0", "nodes: 0 is not a whole number of at least 1"),
        ("overlap_inter = 0.9", "overlap_inter = 9", "overlap_inter: 9 is not a number from 0 to 1"),
        ("[efficiency_backward]", "[efficiency_backwards]", "did you mean 'efficiency_backward'?"),
        ('adamw = "9GB"', 'adam = "9GB"', "update.adam: unknown; did you mean 'adamw'?"),
        ('adamw = "9GB"', 'adamw = "9 Gbit"', "update.adamw: '9 Gbit' is not a positive number of bytes per second"),
        ("[fits.local]", "[fits.locl]", "fits.locl: unknown; did you mean 'local'?"),
        ("slice = {", "slise = {", "fits.local.slise: unknown; did you mean 'slice'?"),
        ("sum = {", "slice = {", "fits.inter.slice: unknown"),
        ("ranks = 3", "ranks = 1", "fits.inter.ranks: 1 is not a whole number of at least 2"),
        ("ranks = 3\n", "", "fits.inter.ranks: missing"),
        ("alpha = 1e-4, beta", "beta", "fits.inter.sum.alpha: missing"),
        ("alpha = 2e-5, until", "alpha = -2e-5, until", "fits.intra.gather.alpha: -2e-05 is not"),
        ('"64KiB", "1MiB"', '"1MiB", "64KiB"', "fits.intra.gather.until: ['1MiB', '64KiB'] is not a list of rising"),
        ('"64KiB", "1MiB"', '"64KiB", "1 Mbit"', "fits.intra.gather.until:"),
        ("[1e9, 5e9, 2e9]", "[1e9, 5e9]", "fits.intra.gather.beta: [1000000000.0, 5000000000.0] is not a list of"),
        ("[1e9, 5e9, 2e9]", "[1e9, -5e9, 2e9]", "fits.intra.gather.beta:"),
        ("[1e9, 5e9, 2e9]", "1e9", "fits.intra.gather.beta:"),
        ('sum = {alpha = 1e-4, beta = ["125MB"]}', "sum = 3", "fits.inter.sum: 3 is not a table"),
    ],
)
def test_what_an_optional_part_must_be(tmp_path, before, behind, said):
    whole = MORE + TEXT + TABLES
    assert before in whole
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, whole.replace(before, behind)))
    assert said in str(caught.value)


CLASSES = """
[[ranks]]
ranks = "1, 4-5"
speed = 0.5
memory_bytes = "2GiB"
inter = {alpha = 1e-4, beta = "125MB"}

[[ranks]]
nodes = "1"
speed = 1.25
"""


def unequal(tmp_path, classes=CLASSES):
    text = TEXT.replace("ranks_per_node = 64", "ranks_per_node = 6")
    return written(tmp_path, text + classes)


def test_ranks_that_differ(tmp_path):
    machine = load(unequal(tmp_path))
    assert machine.speeds(7) == (1.0, 0.5, 1.0, 1.0, 0.5, 0.5, 1.25)
    own, others = 2 * 2**30, machine.memory_bytes
    assert machine.memories(7) == (others, own, others, others, own, own, others)
    assert machine.class_of(4).inter == Link(1e-4, 1.25e8)
    assert machine.class_of(4).intra is None
    assert load("cpu").speeds(2) == (1.0, 1.0)
    text = machine_toml.text(machine, (), {})
    assert machines._record(tomllib.loads(text), "written") == machine
    assert machines._record(machines.table(machine), "again") == machine


@pytest.mark.parametrize(
    ("before", "behind", "said"),
    [
        ('"1, 4-5"', '"5-4"', "ranks[0].ranks: '5-4' is not numbers from 0 on"),
        ('"1, 4-5"', '"1;4"', "ranks[0].ranks: '1;4' is not numbers from 0 on"),
        ('"1, 4-5"', '"4-6"', "ranks[1]: rank 6 is one of ranks[0] as well"),
        ('"1, 4-5"', '"4-17"', "ranks[1]: ranks 6 to 11 are some of ranks[0] as well"),
        ("speed = 0.5", "speed = 0", "ranks[0].speed: 0 is not a positive number"),
        ("speed = 0.5", "sped = 0.5", "ranks[0].sped: unknown; did you mean 'speed'?"),
        ("alpha = 1e-4, beta", "beta", "ranks[0].inter.alpha: missing"),
        ("inter = {alpha", "local = {alpha", "ranks[0].local: unknown"),
        ('nodes = "1"', "", "ranks[1]: neither ranks nor nodes says which are meant"),
        ('nodes = "1"', 'nodes = "1"\nranks = "9"', "ranks[1]: both ranks and nodes say which are meant"),
        ("speed = 1.25", "", "ranks[1]: says nothing of its ranks"),
        ("[[ranks]]", "[[rank]]", "rank: unknown; did you mean 'ranks'?"),
    ],
)
def test_what_a_class_of_ranks_must_be(tmp_path, before, behind, said):
    assert before in CLASSES
    with pytest.raises(ConfigError) as caught:
        load(unequal(tmp_path, CLASSES.replace(before, behind)))
    assert said in str(caught.value)


def test_ranks_is_a_list_of_tables(tmp_path):
    with pytest.raises(ConfigError, match=r"ranks: not a list of tables; write \[\[ranks\]\]"):
        load(unequal(tmp_path, "[ranks]\nspeed = 2\n"))


def test_grids_that_the_machine_has_no_room_for(tmp_path):
    machine = dataclasses.replace(load(full(tmp_path)), ranks_per_node=4)
    machines.check_ranks(machine, GridShape.parse("4x2"))
    machines.check_ranks(load("cpu"), GridShape.parse("1000"))
    with pytest.raises(ConfigError, match="2 nodes of 4 ranks, 8 in all"):
        machines.check_ranks(machine, GridShape.parse("3x3"))
