"""Tables of layouts: what the runtime reads out of the short form is what was decided for every parameter."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.codegen.layout_tables import layout_text, parameter_rows
from autopar.errors import ProgramMismatch
from autopar.ir.layout import Copied, Partial, Replicate, Shard
from autopar.runtime import Grid, Program, simulate
from autopar.runtime.program.plan_reader import TensorSpec
from autopar.runtime.program.program import parameter_layouts

LAYOUTS = [(Replicate(),), (Copied(),), (Shard(0),)]
PARTS = ["h", "0", "1", "2", "mlp", "fc", "weight", "bias", "a-b"]


def read_back(rows, names):
    """What a program with this table gives every parameter."""
    described = [TensorSpec(name, (4,), torch.float32) for name in names]
    return simulate(1, lambda: parameter_layouts(Program(Grid("1"), print, {}, rows), described))[0]


@st.composite
def storage(draw):
    """Layouts by name; no name is the beginning of another, as in a state_dict."""
    names = draw(
        st.sets(st.lists(st.sampled_from(PARTS), min_size=1, max_size=5).map(".".join), min_size=1, max_size=40)
    )
    leaves = sorted(one for one in names if not any(other.startswith(one + ".") for other in names))
    favourite = draw(st.sampled_from(LAYOUTS))
    odd = draw(st.sets(st.sampled_from(leaves), max_size=3))
    return {name: draw(st.sampled_from(LAYOUTS)) if name in odd else favourite for name in leaves}


@settings(deadline=None)
@given(storage())
def test_every_parameter_lies_as_decided(layouts):
    assert read_back(parameter_rows(layouts), layouts) == layouts


@settings(deadline=None)
@given(
    st.dictionaries(
        st.lists(st.sampled_from(PARTS), min_size=3, max_size=3).map(".".join), st.sampled_from(LAYOUTS), min_size=1
    )
)
def test_layouts_without_any_order(layouts):
    assert read_back(parameter_rows(layouts), layouts) == layouts


@settings(deadline=None)
@given(st.one_of(storage(), st.dictionaries(st.lists(st.sampled_from(PARTS), min_size=2, max_size=3).map(".".join),
                                          st.sampled_from(LAYOUTS), min_size=1, max_size=40)))  # fmt: skip
def test_no_row_can_be_left_out(layouts):
    rows = parameter_rows(layouts)
    described = [TensorSpec(name, (4,), torch.float32) for name in layouts]

    def needless(row):
        rest = {other: one for other, one in rows.items() if other != row}
        try:
            return parameter_layouts(Program(Grid("1"), print, {}, rest), described) == layouts
        except ProgramMismatch:
            return False

    assert simulate(1, lambda: [row for row in rows if needless(row)])[0] == []


def test_blocks_share_a_row_and_the_odd_one_has_its_own_below_it():
    layouts = {f"h.{i}.{layer}.{name}": LAYOUTS[(i, layer) == (3, "fc")]
               for i in range(5) for layer in ("fc", "ln") for name in ("weight", "bias")} | {"h.2.scale": LAYOUTS[2]}  # fmt: skip
    assert list(parameter_rows(layouts).items()) == [
        ("h.*.fc.*", LAYOUTS[0]),
        ("h.3.fc.*", LAYOUTS[1]),
        ("h.*.ln.*", LAYOUTS[0]),
        ("h.2.scale", LAYOUTS[2]),
    ]


def test_a_star_is_one_component():
    """As in torch's TransformerEncoderLayer, whose attention has parameters of its own and a layer inside."""
    names = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    layouts = {f"layers.{i}.self_attn.{name}": LAYOUTS[0] for i in range(3) for name in names}
    assert list(parameter_rows(layouts)) == ["layers.*.self_attn.*", "layers.*.self_attn.out_proj.*"]


def test_the_rule_stands_before_its_exceptions():
    norm = dict.fromkeys(("norm.weight", "norm.bias"), LAYOUTS[1])
    counts = dict.fromkeys(("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"), LAYOUTS[0])
    assert list(parameter_rows({**norm, "head.weight": LAYOUTS[2], **counts}).items()) == [
        ("norm.*", LAYOUTS[0]),
        *norm.items(),
        ("head.weight", LAYOUTS[2]),
    ]


def test_a_module_whose_parameters_lie_alike_takes_one_row():
    assert parameter_rows(
        {"fc.weight": LAYOUTS[2], "fc.bias": LAYOUTS[2], "out.weight": LAYOUTS[0], "scale": LAYOUTS[0]}
    ) == {
        "fc.*": LAYOUTS[2],
        "out.weight": LAYOUTS[0],
        "scale": LAYOUTS[0],
    }


def test_a_long_table_goes_by_the_last_component():
    layouts = {f"{chr(97 + i)}{chr(97 + j)}.norm.weight": LAYOUTS[1] for i in range(6) for j in range(6)}
    rows = parameter_rows({**layouts, "ab.norm.bias": LAYOUTS[0]})
    assert rows["*.*.weight"] == LAYOUTS[1]
    assert len(rows) < 10


def test_the_text_of_a_layout_makes_it():
    names = {one.__name__: one for one in (Copied, Partial, Replicate, Shard)}
    for layout in (Copied(), Partial(), Replicate(), Shard(1), Shard(0, 3), Shard(0, 1, 64), Shard(2, 3, 4)):
        assert eval(layout_text(layout), names) == layout
