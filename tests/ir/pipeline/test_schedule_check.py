"""The proof of schedules, decided by an executor of its own that plays every position with messages in mailboxes."""

import random
from collections import Counter

import pytest

from autopar.errors import PlanError
from autopar.ir.pipeline.schedule import Action, parse_schedule
from autopar.ir.pipeline.schedule_check import SegmentGraph, ValueEdge, check_schedule, in_flight

SKIP = SegmentGraph(2, 2, (0, 1, 0), (ValueEdge("h", 0, 1), ValueEdge("skip", 0, 2), ValueEdge("out", 1, 2)))
GOOD = """
    0: F0.0 F0.1 F2.0 B2.0 F2.1 B2.1 B0.0 B0.1
    1: F1.0 F1.1 B1.0 B1.1
"""


def refused(text, graph=SKIP, planned=None):
    with pytest.raises(PlanError) as error:
        check_schedule(graph, parse_schedule(text), planned)
    return str(error.value)


def test_a_schedule_that_can_be_carried_out():
    assert check_schedule(SKIP, parse_schedule(GOOD), (2, 2, 1)) == (2, 2, 1)
    assert in_flight(parse_schedule("0: F0.0 B0.0 F0.1 B0.1 W0.0 W0.1"), 1) == (2,)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("F0.1 F2.0", "F2.0", "position 0: F0.1 (forward of segment 0, micro-batch 1) is missing"),
        ("F0.1", "F0.1 F0.1", "F0.1 (forward of segment 0, micro-batch 1) stands 2 times"),
        ("B1.1", "B1.1 W1.0", "position 1: W1.1 (weight gradients of segment 1, micro-batch 1) is missing"),
        ("F1.0 F1.1 B1.0", "B1.0 F1.1 F1.0", "position 1: B1.0 (backward of segment 1, micro-batch 0) comes before its f"),
        ("F0.0 F0.1", "F0.0 F0.1 F1.0", "position 0: F1.0 (forward of segment 1, micro-batch 0), whose segment is on p"),
        ("F0.0", "F0.0 F0.7", "position 0: F0.7 is no action, there are 3 segments and 2 micro-batches"),
        ("1: F1.0 F1.1 B1.0 B1.1", "", "1 lists for 2 positions"),
        ("F0.0 F0.1 F2.0", "F2.0 F0.0 F0.1", "F2.0 (forward of segment 2, micro-batch 0) waits for skip (segment 0 -> 2), "
         "but F0.0 comes later in its own list"),
        ("F1.0 F1.1 B1.0", "F1.0 B1.0 F1.1", None),
        ("F0.1 F2.0 B2.0 F2.1", "F2.0 B2.0 F0.1 F2.1", None),
        ("B2.0 F2.1 B2.1 B0.0", "B2.0 B0.0 F2.1 B2.1", None),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_named(old, new, said):
    text = GOOD.replace(old, new)
    assert text != GOOD
    if said is None:
        check_schedule(SKIP, parse_schedule(text))
    else:
        assert said in refused(text)


def test_a_circle_of_waiting_positions_is_named_in_full():
    text = "0: F0.0 F2.0 F0.1 F2.1 B2.0 B2.1 B0.0 B0.1\n1: F1.1 F1.0 B1.0 B1.1"
    message = refused(text)
    assert (
        "position 0: F2.0 (forward of segment 2, micro-batch 0) waits for out (segment 1 -> 2), but F1.0 comes on position"
        in message
    )
    assert (
        "position 1: F1.1 (forward of segment 1, micro-batch 1) waits for h (segment 0 -> 1), but F0.1 comes on p"
        in message
    )
    assert "on position 1 after F1.1" in message


def test_a_gradient_that_is_waited_for_is_named():
    graph = SegmentGraph(2, 1, (0, 1, 1), (ValueEdge("h", 0, 1), ValueEdge("g", 1, 2)))
    text = "0: F0.0 B0.0\n1: F1.0 F2.0 B1.0 B2.0"
    assert "B1.0 (backward of segment 1, micro-batch 0) waits for the gradient of g (segment 1 -> 2)" in refused(
        text, graph
    )


def test_more_in_flight_than_planned_is_refused():
    assert "segment 0 on position 0: 2 micro-batches in flight, 1 planned" in refused(GOOD, planned=(1, 2, 1))


# An independent decision: positions as machines that post receives, compute and send; messages lie in one mailbox.


def plays(graph, lists, rng):
    """Whether everything runs, once and in an order that the data allow, when positions take turns as drawn."""
    wanted = Counter()
    deferred = {a.segment for each in lists for a in each if a.kind == "W"}
    for segment in range(len(graph.position)):
        for kind in "FBW" if segment in deferred else "FB":
            wanted.update((graph.position[segment], kind, segment, m) for m in range(graph.microbatches))
    ran = Counter()
    mail, computed, at = set(), set(), [0] * len(lists)
    running = [p for p in range(len(lists)) if lists[p]]
    while running:
        can = [p for p in running if may_run(graph, p, lists[p][at[p]], mail, computed)]
        if not can:
            return False
        position = rng.choice(can)
        kind, segment, m = lists[position][at[position]]
        ran[position, kind, segment, m] += 1
        computed.add((position, kind, segment, m))
        for number, edge in enumerate(graph.edges):
            if kind == "F" and edge.source == segment:
                mail.add(("data", number, m))
            if kind == "B" and edge.target == segment and edge.gradient:
                mail.add(("gradient", number, m))
        at[position] += 1
        running = [p for p in running if at[p] < len(lists[p])]
    return ran == wanted and len(lists) == graph.positions


def may_run(graph, position, action, mail, computed):
    kind, segment, m = action
    if kind == "F":
        return all(("data", n, m) in mail for n, edge in enumerate(graph.edges) if edge.target == segment)
    own = (position, "F" if kind == "B" else "B", segment, m)
    back = [n for n, edge in enumerate(graph.edges) if edge.source == segment and edge.gradient]
    return own in computed and (kind == "W" or all(("gradient", n, m) in mail for n in back))


def drawn_graph(rng):
    positions, segments = rng.randint(1, 3), rng.randint(1, 5)
    pairs = [(a, b) for b in range(segments) for a in range(b) if a == b - 1 or rng.random() < 0.3]
    edges = tuple(ValueEdge(f"v{a}{b}", a, b, rng.random() < 0.8) for a, b in pairs if rng.random() < 0.9)
    return SegmentGraph(positions, rng.randint(1, 3), tuple(rng.randrange(positions) for _ in range(segments)), edges)


def drawn_lists(graph, rng):
    """Valid lists: actions whose needs have run, one after the other as drawn, go to the ends of their lists."""
    deferred = [rng.random() < 0.5 for _ in graph.position]
    left = [
        Action(k, s, m)
        for s, w in enumerate(deferred)
        for k in ("FBW" if w else "FB")
        for m in range(graph.microbatches)
    ]
    lists, mail, computed = [[] for _ in range(graph.positions)], set(), set()
    while left:
        action = rng.choice([a for a in left if may_run(graph, graph.position[a.segment], a, mail, computed)])
        left.remove(action)
        kind, segment, m = action
        lists[graph.position[segment]].append(action)
        computed.add((graph.position[segment], *action))
        mail |= {("data", n, m) for n, edge in enumerate(graph.edges) if kind == "F" and edge.source == segment}
        mail |= {
            ("gradient", n, m) for n, e in enumerate(graph.edges) if kind == "B" and e.target == segment and e.gradient
        }
    return lists


def mutated(lists, rng):
    """One drawn edit: swap, drop, duplicate, move within a list or to another, reverse, change of an action."""
    lists = [list(each) for each in lists]
    position = rng.choice([p for p, each in enumerate(lists) if each])
    own = lists[position]
    i, j = rng.randrange(len(own)), rng.randrange(len(own))
    edit = rng.choice(("swap", "drop", "twice", "move", "away", "reverse", "other"))
    if edit == "swap":
        own[i], own[j] = own[j], own[i]
    elif edit == "drop":
        del own[i]
    elif edit == "twice":
        own.insert(j, own[i])
    elif edit == "move":
        own.insert(j, own.pop(i))
    elif edit == "away":
        rng.choice(lists).append(own.pop(i))
    elif edit == "reverse":
        own[min(i, j) : max(i, j) + 1] = own[min(i, j) : max(i, j) + 1][::-1]
    else:
        own[i] = Action(rng.choice("FBW"), own[j].segment, own[i].microbatch)
    return lists


def test_mutated_lists_are_refused_just_where_they_cannot_be_carried_out():
    rng = random.Random(0)
    outcomes = Counter()
    for _ in range(400):
        graph = drawn_graph(rng)
        lists = drawn_lists(graph, rng)
        check_schedule(graph, lists)
        for _ in range(5):
            edited = lists
            for _ in range(rng.choice((1, 1, 2))):
                edited = mutated(edited, rng)
                if not any(edited):
                    break
            try:
                check_schedule(graph, edited)
                accepted = True
            except PlanError:
                accepted = False
            assert accepted == plays(graph, edited, rng), edited
            outcomes[accepted] += 1
    assert min(outcomes.values()) > 200


def test_what_is_left_for_a_smaller_batch_or_without_gradients_still_runs():
    rng = random.Random(1)
    for _ in range(50):
        graph = drawn_graph(rng)
        lists = drawn_lists(graph, rng)
        fewer = [[a for a in each if a.microbatch < graph.microbatches - 1] for each in lists]
        smaller = SegmentGraph(graph.positions, graph.microbatches - 1, graph.position, graph.edges)
        assert plays(smaller, fewer, rng)
        check_schedule(smaller, fewer)
        mail, at = set(), [0] * graph.positions
        forward = [[a for a in each if a.kind == "F"] for each in lists]
        for _ in range(sum(map(len, forward))):
            p = next(
                p
                for p in range(graph.positions)
                if at[p] < len(forward[p]) and may_run(graph, p, forward[p][at[p]], mail, ())
            )
            _, segment, m = forward[p][at[p]]
            at[p] += 1
            mail |= {("data", n, m) for n, edge in enumerate(graph.edges) if edge.source == segment}


def test_it_makes_no_difference_who_runs_first():
    """Every interleaving of small lists, edited or not, ends in the same way."""
    rng = random.Random(2)
    for _ in range(60):
        graph = SegmentGraph(2, 2, (0, 1), (ValueEdge("h", 0, 1),))
        lists = drawn_lists(graph, rng)
        lists = mutated(lists, rng) if rng.random() < 0.7 else lists
        ends = every_end(graph, lists)
        assert len(ends) == 1
        done = ends == {tuple(map(len, lists))}
        assert plays(graph, lists, rng) <= done


def every_end(graph, lists):
    """The places in the lists at which no position can go on, over all interleavings."""
    seen, ends, todo = set(), set(), [(0,) * len(lists)]
    while todo:
        at = todo.pop()
        ran = [(p, *a) for p, each in enumerate(lists) for a in each[: at[p]]]
        mail = {("data", n, m) for _, k, s, m in ran for n, e in enumerate(graph.edges) if k == "F" and e.source == s}
        mail |= {
            ("gradient", n, m) for _, k, s, m in ran for n, e in enumerate(graph.edges) if k == "B" and e.target == s
        }
        can = [p for p, k in enumerate(at) if k < len(lists[p]) and may_run(graph, p, lists[p][k], mail, set(ran))]
        ends |= set() if can else {at}
        following = [tuple(k + (q == p) for q, k in enumerate(at)) for p in can]
        todo += [each for each in following if each not in seen]
        seen.update(following)
    return ends
