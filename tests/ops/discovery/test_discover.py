"""Discovery on operators without a record: what is found is all that is right, and nothing where anything is wrong."""

import itertools
import os

import msgspec
import pytest
import torch
from discover_operators import FRAGILE, MISLEADING, REFUSED, SPLITTABLE
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.ir.graph import Graph, Node, Ref, Value
from autopar.ops import registry
from autopar.ops.discovery import cache as discover_cache
from autopar.ops.discovery import discover
from autopar.ops.discovery.call_shape import experiment, form_of, made_up, ties
from autopar.ops.discovery.sandbox import in_child
from autopar.ops.discovery.search import Verdict, search
from autopar.ops.discovery.trial import Letter
from autopar.ops.lookup import op_of, record_of_call, rule_of, without_record
from autopar.ops.record.op import Op, Sample, T
from autopar.proof.record_proof import prove, prove_operator
from autopar.proof.reference import whole_of


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own, on disk and in memory."""
    monkeypatch.setenv("AUTOPAR_CACHE", str(tmp_path))
    discover.verdict.cache_clear()
    discover._record.cache_clear()
    return tmp_path / "operators"


def tensor(spec):
    if isinstance(spec, list):
        return tuple(map(tensor, spec))
    if isinstance(spec, str):
        kind, number, *shape = spec.replace("(", "").replace(")", "").replace(",", "").split()
        return T(tuple(map(int, shape)), f"{kind} {number}")
    return T(spec)


def called(target, shapes, literals=()):
    """The call of a sample, and the sample."""
    sample = Sample((*map(tensor, shapes), *literals), target=target)
    return whole_of(Op("hidden", (target,), "", None, None), sample).call, sample


def letters(verdict):
    return {(one.operands, one.results) for one in verdict.letters}


@pytest.mark.parametrize("target", SPLITTABLE)
def test_the_letters_of_an_operator(target):
    shapes, literals, expected = SPLITTABLE[target]
    call, sample = called(target, shapes, literals)
    found = discover.discovered(call)
    assert letters(discover.verdict(form_of(call))) == expected
    assert prove(found, sample) > 0
    assert record_of_call(call)[0] is found
    assert discover.is_discovered(found)


@pytest.mark.parametrize("target", MISLEADING)
def test_what_looks_as_if_it_could_be_split(target):
    verdict = search(form_of(called(target, [(128, 4)], MISLEADING[target])[0]))
    assert not [one for one in verdict.letters if one.operands[0] == 0]


@pytest.mark.parametrize("target", REFUSED)
def test_what_cannot_be_tried(target):
    value = Value("x", (8, 6), "float32", True)
    call = op_call(target, [value], [value])
    assert discover.why_not(call).startswith(REFUSED[target])
    assert discover.discovered(call) is None
    assert record_of_call(call)[1].refused


def op_call(target, operands, results, *literals):
    from autopar.ops.record.rule import Call

    refs = tuple(Ref(one.name) for one in operands)
    return Call(
        Node("call", target, (*refs, *literals), (), tuple(one.name for one in results)),
        tuple(operands),
        tuple(results),
    )


def test_an_integer_keeps_its_place_among_the_extents():
    """A slice of the first 16 rows of 32 is not tried on 5 rows, one of all 16 is; the batch's size does not matter."""

    def of(rows, stop):
        x, y = Value("x", (rows, 6), "float32", True), Value("y", (min(rows, stop), 6), "float32", True)
        return form_of(op_call("aten.slice.Tensor", [x], [y], 0, 0, stop))

    assert letters(search(of(32, 16))) == {((1,), (1,))}
    assert letters(search(of(16, 16))) == {((0,), (0,)), ((1,), (1,))}
    assert letters(search(of(8, 16))) == {((0,), (0,)), ((1,), (1,))}
    made = next(made_up(of(32, 16), frozenset()))
    assert all(one.shapes[0][0] > 16 and one.shapes[0][0] % 16 == 0 for one in made)
    assert ties(of(32, 16)) == [frozenset()]
    assert ties(of(16, 16)) == [frozenset({3}), frozenset()]
    far = [
        op_call("aten.sin.default", [Value("x", (n, 6), "float32", True)], [Value("y", (n, 6), "float32", True)])
        for n in (1000, 1600)
    ]
    assert experiment(form_of(far[0])) == experiment(form_of(far[1])) != experiment(of(32, 16))


@st.composite
def products(draw):
    """A product of two tensors over random letters: every letter may be split."""
    names = "abcde"[: draw(st.integers(2, 4))]
    held = [draw(st.sets(st.sampled_from(names), min_size=1)) for _ in range(2)]
    kept = [name for name in sorted(held[0] | held[1]) if draw(st.booleans())]
    extents = {name: draw(st.sampled_from((2, 4, 6, 8))) for name in names}
    order = [draw(st.permutations(sorted(one))) for one in held]
    return ["".join(one) for one in order], "".join(draw(st.permutations(kept))), extents


@settings(max_examples=8, deadline=None)
@given(products())
def test_every_letter_of_a_product_is_found(product):
    (one, two), kept, extents = product
    call = einsum(one, two, kept, extents)
    expected = {((one.find(name), two.find(name)), (kept.find(name),)) for name in set(one) | set(two)}
    assert letters(search(form_of(call))) == expected


def einsum(one, two, kept, extents):
    pair = tuple(T(tuple(extents[name] for name in names)) for names in (one, two))
    sample = Sample((f"{one},{two}->{kept}", pair), target="aten.einsum.default")
    return whole_of(Op("hidden", (sample.target,), "", None, None), sample).call


def test_a_verdict_is_kept_and_tried_again(cache, monkeypatch):
    call, _ = called("discovery.scale.default", [(8, 6), (6,)])
    form = form_of(call)
    found = discover.verdict(form)
    (file,) = cache.iterdir()
    assert msgspec.json.decode(file.read_bytes(), type=Verdict) == found == discover_cache.read(form)
    searched = []
    monkeypatch.setattr(discover, "search", lambda form: searched.append(form) or Verdict(reason="searched again"))
    monkeypatch.setattr(discover, "in_child", lambda function, seconds: function())
    discover.verdict.cache_clear()
    assert discover.verdict(form) == found
    assert not searched
    wrong = Verdict((Letter((0, 0), (0,)),))  # of another operator, or of this one before it was changed
    for text in (
        b"",
        b"{",
        b"[]",
        b'{"letters": 5}',
        msgspec.json.encode(wrong),
        msgspec.json.encode(Verdict((Letter((7,), (0,)),))),
    ):
        file.write_bytes(text)
        searched.clear()
        discover.verdict.cache_clear()
        assert discover.verdict(form).reason == "searched again"
        assert searched == [form]


def test_where_verdicts_are_kept(tmp_path, monkeypatch):
    call, _ = called("discovery.scale.default", [(8, 6), (6,)])
    monkeypatch.setenv("AUTOPAR_CACHE", "off")
    discover.verdict(form_of(call))
    assert discover_cache.folder() is None
    assert not list(tmp_path.iterdir())
    monkeypatch.delenv("AUTOPAR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert discover_cache.folder() == tmp_path / "home" / "autopar" / "operators"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert discover_cache.folder().parts[-3:] == (".cache", "autopar", "operators")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUTOPAR_CACHE", str(tmp_path / "file"))  # a folder cannot be made there
    discover.verdict.cache_clear()
    assert discover.verdict(form_of(call)).letters


def test_writers_at_once_leave_one_whole_file(cache):
    form = form_of(called("discovery.scale.default", [(8, 6), (6,)])[0])
    verdicts = [Verdict(reason="x" * size) for size in (10, 100_000)]
    children = []
    for verdict in verdicts:
        child = os.fork()
        if child == 0:
            for _ in range(40):
                discover_cache.write(form, verdict)
            os._exit(0)
        children.append(child)
    read = [discover_cache.read(form) for _ in range(200)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert {one.reason for one in read if one is not None} <= {one.reason for one in verdicts}
    assert discover_cache.read(form) in verdicts
    assert len(list(cache.iterdir())) == 1


def test_the_record_to_paste_proves_itself(monkeypatch):
    """As Python: with sizes, fixed literals, addends, lists of tensors, indices; and it refuses what was not tried."""
    monkeypatch.setattr(registry, "_OWN", {})
    for target in SPLITTABLE:
        shapes, literals, _ = SPLITTABLE[target]
        call, _ = called(target, shapes, literals)
        exec(compile(discover.record_source(call), "record.py", "exec"), {})
        made = registry._OWN[target]
        assert prove_operator(made) > 0
        assert record_of_call(call)[1].letters == discover.discovered(call).rule(call).letters
        assert not discover.is_discovered(record_of_call(call)[0])
    for literal, fits in ((4, True), (5, False), (8, False)):
        other, _ = called("discovery.first.default", [(8, 6)], (literal,))
        if fits:
            assert registry._OWN[other.node.target].rule(other).letters == ("a",)
        else:
            with pytest.raises(ValueError, match="other literals than were tried"):
                registry._OWN[other.node.target].rule(other)


def test_a_call_that_its_record_refuses_is_looked_at_too():
    """Rows of a difference along the other dim: priced as its record says, printed as torch knows it."""
    values = {
        name: Value(name, shape, "float32", True) for name, shape in (("x", (8, 6)), ("y", (8, 6)), ("z", (8, 6)))
    }
    node = Node("a", "aten.renorm.default", (Ref("x"), 2.0, 0, 1.0), (), ("y",))
    graph = Graph("g", (), (), (node,), values, "y")
    rule = rule_of(graph, node)
    assert [call.node for call in without_record(graph)] == ([node] if op_of(node).name == "fallback" else [])
    assert [rule.results[0][dim] for dim in (0,)] == [(rule.letters[0],)]
    assert len(rule.letters) == 1


def test_progress_tells_each_form_once():
    call, _ = called("discovery.scale.default", [(8, 6), (6,)])
    bad = op_call(
        "discovery.noise.default", [Value("x", (8, 6), "float32", True)], [Value("y", (8, 6), "float32", True)]
    )
    told = []
    discover.explore([call, bad, call], lambda stage, text, seconds: told.append(text))
    assert told == ["discovery.scale: a b, b -> a b", "discovery.noise: runs whole: it draws random numbers"]


def test_random_numbers_of_the_user_stay_theirs():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    search(form_of(called("discovery.scale.default", [(8, 6), (6,)])[0]))
    discover.why_not(
        op_call("discovery.noise.default", [Value("x", (8, 6), "float32", True)], [Value("y", (8, 6), "float32", True)])
    )
    assert torch.equal(torch.rand(3), expected)


def test_an_operator_that_dies_of_no_rows_keeps_its_letters():
    target = FRAGILE
    found = discover.discovered(called(target, [(8, 6)])[0])
    assert found.rule(called(target, [(8, 6)])[0]).filled == {"a", "b"}
    scale = discover.discovered(called("discovery.scale.default", [(8, 6), (6,)])[0])
    assert not scale.rule(called("discovery.scale.default", [(8, 6), (6,)])[0]).filled


def test_why_it_does_not_run_is_told():
    value = Value("x", (8, 6), "float32", True)
    reason = discover.why_not(op_call("discovery.in_place.default", [value], [value]))
    assert reason == (
        "it does not run on made-up operands (RuntimeError: a leaf Variable that requires grad is being used in an in-place "
        "operation.)"
    )


def test_whatever_the_caller_has_switched_on():
    form = form_of(called("discovery.biased.default", *SPLITTABLE["discovery.biased.default"][:2])[0])
    expected = search(form)
    for mode in (torch.device("meta"), torch.no_grad(), torch.inference_mode(), torch.autocast("cpu")):
        with mode:
            assert search(form) == expected
    assert len(expected.letters) == 3


def test_children(capfd):
    assert in_child(lambda: b"x" * 300_000, 20.0) == b"x" * 300_000
    assert in_child(lambda: print("noise") or b"ok", 20.0) == b"ok"
    assert in_child(os.abort, 20.0) is None
    assert in_child(lambda: 1 / 0, 20.0) is None
    assert in_child(lambda: next(itertools.dropwhile(bool, itertools.repeat(True))), 0.3) is None
    assert capfd.readouterr() == ("", "")
