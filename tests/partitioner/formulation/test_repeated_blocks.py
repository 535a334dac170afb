"""Repeated blocks: found where they are the same up to names, and only there."""

import dataclasses

import pytest
from compiling import EVERY, captured
from odd_models import Listed, Sine, Tanh, normal
from shared_captures import of_these_rows
from small_models import Gpt, ids
from torch import nn

from autopar.partitioner.formulation.repeated_blocks import find, representatives


def repeats(build, inputs=None):
    return find(of_these_rows(build, inputs or {"x": normal(4, 6)}, name="model").graph)


def summary(found):
    return [(one.prefix, one.members, one.whole) for one in found]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mlp", []),
        ("conv", []),
        ("gpt", [("blocks", ("0", "1", "2"), True)]),
        ("again", [("blocks", ("0", "1"), False), ("blocks", ("0", "2"), False)]),
        ("there_and_back", [("blocks", ("0", "1", "2"), True), ("blocks", ("1", "0"), False)]),
        ("backwards", [("blocks", ("2", "0", "1"), True)]),
        ("kinds", [("blocks", ("0", "1"), False), ("blocks", ("2", "3"), False), ("blocks", ("4", "5"), False)]),
        ("gaps", [("blocks", ("1", "2", "4"), False), ("blocks", ("6", "7"), False)]),
        ("plain", []),
        ("dense", []),
        ("shared", []),
        ("stages", [("stages", ("0", "1"), True)]),
        ("masked", [("layer", ("0", "1", "2"), True)]),
    ],
)
def test_what_repeats(name, expected):
    assert summary(find(captured(name).graph)) == expected


@pytest.mark.parametrize("name", EVERY)
def test_blocks_are_the_same_up_to_names(name):
    graph = captured(name).graph
    order = {node.name: i for i, node in enumerate(graph.nodes)}
    for repeat in find(graph):
        first = repeat.nodes[0]
        flat = [order[node.name] for nodes in repeat.nodes for node in nodes]
        assert flat == list(range(flat[0], flat[0] + len(flat)))
        for nodes, values in zip(repeat.nodes, repeat.values, strict=True):
            assert [node.target for node in nodes] == [node.target for node in first]
            assert [name for node in nodes for name in node.outputs if name] == list(values)
            for one, other in zip(values, repeat.values[0], strict=True):
                assert dataclasses.replace(graph.values[one], name="") == dataclasses.replace(
                    graph.values[other], name=""
                )
            for node, model in zip(nodes, first, strict=True):
                assert len(node.inputs) == len(model.inputs)


@pytest.mark.parametrize("name", EVERY)
def test_what_is_carried_is_what_the_block_before_made(name):
    """Renaming block 0 by its entries and the values of block j - 1 gives block j."""
    graph = captured(name).graph
    parameters = {item.value for item in graph.parameters}
    for repeat in find(graph):
        for j in range(1, len(repeat.nodes)):
            names = dict(zip(repeat.values[0], repeat.values[j], strict=True))
            names |= {one: one for one in repeat.entries}
            names |= {repeat.entries[entry]: repeat.values[j - 1][position] for entry, position in repeat.carried}
            for node, first in zip(repeat.nodes[j], repeat.nodes[0], strict=True):
                for read, model in zip(node.inputs, first.inputs, strict=True):
                    assert read in parameters or read == names[model]


@pytest.mark.parametrize("name", EVERY)
def test_nothing_but_what_is_carried_leaves_a_block(name):
    graph = captured(name).graph
    readers = graph.consumers()
    for repeat in find(graph):
        for j, (nodes, values) in enumerate(zip(repeat.nodes, repeat.values, strict=True)):
            inside = {node.name for node in nodes}
            following = {node.name for node in repeat.nodes[j + 1]} if j + 1 < len(repeat.nodes) else None
            for position, value in enumerate(values):
                outside = {node.name for node in readers[value]} - inside
                assert not outside or position in repeat.outputs()
                assert following is None or outside <= following


def test_a_block_with_another_number_is_no_repeat():
    class Scaled(Sine):
        def __init__(self, scale):
            super().__init__()
            self.scale = scale

        def forward(self, x):
            return super().forward(x) * self.scale

    assert summary(repeats(lambda: Listed([Scaled(2), Scaled(2), Scaled(3), Scaled(3)]))) == [
        ("blocks", ("0", "1"), False),
        ("blocks", ("2", "3"), False),
    ]


def test_a_block_with_another_width_inside_is_no_repeat():
    def block(width):
        return nn.Sequential(nn.Linear(6, width), nn.Linear(width, 6))

    assert repeats(lambda: Listed([block(4), block(5), block(4)])) == ()


def test_a_member_that_is_never_called_makes_the_list_longer_than_the_loop():
    found = repeats(lambda: Listed([Sine() for _ in range(4)], (0, 1, 2)))
    assert summary(found) == [("blocks", ("0", "1", "2"), False)]


def test_a_single_block_is_no_repeat():
    assert repeats(lambda: Listed([Sine(), Tanh()])) == ()


def test_numbers_of_another_list_do_not_mix():
    class Lists(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.a = nn.ModuleList(Sine() for _ in range(2))
            self.b = nn.ModuleList(Sine() for _ in range(2))

        def forward(self, x):
            x = self.first(x)
            for block in (*self.a, *self.b):
                x = block(x)
            return x.square().mean()

    assert summary(repeats(Lists)) == [("a", ("0", "1"), True), ("b", ("0", "1"), True)]


def test_every_later_block_is_represented_by_the_first():
    graph = captured("gpt").graph
    (repeat,) = find(graph)
    tied = representatives([repeat])
    for j in range(1, 3):
        for node, first in zip(repeat.nodes[j], repeat.nodes[0], strict=True):
            assert tied["node:" + node.name] == "node:" + first.name
    assert not [key for key in tied if key.removeprefix("node:") in {node.name for node in repeat.nodes[0]}]
    handed_on = repeat.values[-1][repeat.outputs()[0]]
    assert "fan_out:" + handed_on not in tied
    assert "fan_out:" + repeat.values[1][repeat.outputs()[0]] in tied


def test_twelve_blocks_are_found_as_one():
    found = repeats(lambda: Gpt(layers=12), {"ids": ids(12, 2, 4)})
    assert summary(found) == [("blocks", tuple(map(str, range(12))), True)]
