"""What a graph of operators does not show is right in the program, or refused at its line; it is never ignored."""

import ast
import functools
import itertools
import sys
from pathlib import Path

import pytest
import torch
import unseen
import unseen_state
import unseen_writes
from capture_refused import refused
from compiling import SLOW
from shared_captures import these_rows
from trained import Together, assert_trains_the_same

import autopar

FORMS = unseen.FORMS | unseen_state.FORMS | unseen_writes.FORMS
MARK = "# refused"


def refused_at(kind):
    """``unseen.py:LINE``, the marked line of a form's own class or of one that it is made of; None where there is none."""
    for one in itertools.chain(kind.made_of, kind.__mro__):
        marked = marked_lines(one.__module__) if one.__module__.startswith("unseen") else {}
        if one.__name__ in marked:
            return f"{one.__module__}.py:{marked[one.__name__]}"
    return None


@functools.cache
def marked_lines(module):
    """By the name of each class of a file the first line in it that is marked; of a class in it too."""
    text = Path(sys.modules[module].__file__).read_text(encoding="utf-8")
    marked = [number for number, line in enumerate(text.splitlines(), 1) if MARK in line]
    classes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
    inside = {node.name: [n for n in marked if node.lineno <= n <= node.end_lineno] for node in classes}
    assert len(inside) == len(classes), "two classes of one name"
    return {name: lines[0] for name, lines in inside.items() if lines}


@pytest.mark.parametrize("name", [name for name, kind in FORMS.items() if refused_at(kind)])
def test_a_form_is_refused_at_its_line(name):
    kind = FORMS[name]
    text = refused(kind, unseen.inputs(), live=True)
    assert text.startswith(refused_at(kind) + ": `"), text
    assert "\n  fix: " in text


def test_the_other_forms_train_as_torch_trains_them():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Together({name: kind() for name, kind in FORMS.items() if not refused_at(kind)})
        inputs = unseen.inputs()
    with these_rows():
        one = autopar.compile(model, inputs, grid="2", machine=SLOW)
    assert_trains_the_same(one, model, inputs, steps=3)
