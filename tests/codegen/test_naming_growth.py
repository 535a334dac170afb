"""Names are found without looking at all that were given before, however long a program is, and are the same as before."""

import random

from autopar.capture.passes.naming import RESERVED, _unique
from autopar.codegen.naming import _candidates, assign
from autopar.codegen.steps import LocalValue


class Line:
    """As much of a line as naming reads."""

    def __init__(self, reads, writes):
        self.reads, self.writes, self.steps = reads, writes, (None,)


def plainly(lines, given, outputs):
    """As it is said: a name is free after the last line that reads it."""
    last = {held: -1 for held in given}
    for i, line in enumerate(lines):
        last.update({held: i for held in line.reads})
    last.update(dict.fromkeys(outputs, len(lines)))
    names = dict(given)
    for i, line in enumerate(lines):
        taken = {"p"} | {name for held, name in names.items() if last.get(held, -1) > i}
        for held in line.writes:
            if held not in names:
                names[held] = next(one for one in _candidates(held.value) if one not in taken)
            taken |= {names[held]}
    return names


def drawn(seed):
    draw = random.Random(seed)
    held = [LocalValue(f"{draw.choice('abp')}_{i}", ()) for i in range(3)]
    given = {one: f"x{i}" for i, one in enumerate(held)}
    lines = []
    for i in range(draw.randint(1, 40)):
        reads = tuple(draw.sample(held, draw.randint(0, min(3, len(held)))))
        writes = tuple(LocalValue(f"{draw.choice('abp')}_{10 * i + j}", ()) for j in range(draw.randint(1, 2)))
        lines.append(Line(reads, writes))
        held += writes
    return lines, given, draw.sample(held, 2)


def test_names_are_those_of_the_plain_way():
    for seed in range(200):
        lines, given, outputs = drawn(seed)
        assert assign(lines, given, outputs, {}, frozenset({"p"})) == plainly(lines, given, outputs)


def test_numbers_are_the_lowest_free_ones():
    taken, numbers, plain = set(RESERVED), {}, set(RESERVED)
    draw = random.Random(0)
    for _ in range(2000):
        wish = draw.choice(["tanh", "tanh_3", "mul", "x_1", "x"])
        found = _unique(wish, taken, numbers)
        assert found == _unique(wish, plain, {})
        taken.add(found)
        plain.add(found)


def test_a_name_is_not_looked_for_from_one_each_time():
    class Counted(set):
        asked = 0

        def __contains__(self, name):
            Counted.asked += 1
            return super().__contains__(name)

    taken, numbers = Counted(), {}
    for _ in range(1000):
        taken.add(_unique("tanh", taken, numbers))
    assert Counted.asked <= 5 * 1000
