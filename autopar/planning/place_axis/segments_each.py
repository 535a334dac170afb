"""How many segments a position has where that is left open, and the best placement of these.

More segments let a position begin sooner and wait less; each action has its launches, and each crossing its message. So more than
one are taken where the simulated step gets clearly shorter, with what the runtime itself takes for every action.
"""

from __future__ import annotations

from autopar.errors import ConfigError, InfeasiblePlan
from autopar.ir.plan import Options
from autopar.partitioner.placement.bounds import placement_bound
from autopar.partitioner.placement.coarsening import expanded, merged
from autopar.partitioner.placement.judging import Judge
from autopar.partitioner.placement.mip import solve_mip
from autopar.partitioner.placement.place import ONE_STAGE, Placement, described, place
from autopar.partitioner.placement.problem import PlacementProblem
from autopar.partitioner.problem import NotShorter
from autopar.planning.candidate import Candidate
from autopar.planning.place_axis.schedule_options import AUTO, most_segments

_BLOCKS_EACH = 2  # things to place per segment, from which on whole blocks are tried
_CLOSE = 0.05  # to the bound: cuts inside of blocks are not sought
_CLEARLY = 0.05  # shorter with cuts inside of blocks
_SEGMENTS = (1, 2, 4)  # a position, which are tried
_PAYS = 0.01  # of a step, that more segments have to save
_ACTION = 1e-4  # seconds of the runtime's own to carry out an action, which no call's price has
_MOST_CALLS = 400  # that are placed one by one where whole blocks can be
_MOST_EXACT = 60  # parts that the integer program is given
_SECONDS = 60.0  # of a search: less would make the answer one of the machine's speed


def shortest(candidate: Candidate, problem: PlacementProblem, options: Options, below: float) -> Placement:
    """As many segments a position as are asked for; otherwise one, or 2 or 4 where that is clearly shorter or memory needs it.

    Raises NotShorter where no step is seen to be `below` so many seconds, InfeasiblePlan where memory does not suffice.
    """
    if options.segments is not None or options.schedule != AUTO:
        return _best(candidate, problem, most_segments(options), options, below)
    best: Placement | None = None
    refused: InfeasiblePlan | NotShorter | None = None
    for segments in _SEGMENTS:
        least = placement_bound(problem) + 2 * problem.microbatches * segments * _ACTION
        if best is not None and (least > _with_actions(best) * (1 - _PAYS) or len(problem.calls) > _MOST_CALLS):
            break
        try:
            found = _best(candidate, problem, segments, options, below, fine=segments == 1)
        except (InfeasiblePlan, NotShorter) as error:
            refused = refused or error
            if isinstance(error, NotShorter) and len(problem.calls) > _MOST_CALLS:
                break
            continue
        if best is not None and _with_actions(found) > _with_actions(best) * (1 - _PAYS):
            break
        best = found
    if best is None:
        assert refused is not None, "one segment a position is tried first"
        raise refused
    return best


def _with_actions(placement: Placement) -> float:
    """The makespan, and what it takes to begin the actions of the position that has most of them."""
    return placement.makespan + _ACTION * max(map(len, placement.schedule))


def _best(
    candidate: Candidate, problem: PlacementProblem, segments: int, options: Options, below: float, fine: bool = True
) -> Placement:
    """Of repeated blocks whole ones where there are enough, or, if `fine`, calls one by one where that is clearly shorter.

    Whole blocks are placed in a fraction of the time, and are one function of the program for all positions.
    """
    judge, bound = Judge(problem, options.schedule), placement_bound(problem)

    def placed(parts: list[list[int]]) -> Placement:
        small = merged(problem, parts)
        found = place(
            small, segments_per_position=segments, schedule=options.schedule, time_limit=_SECONDS, below=below
        )
        best = described(problem, expanded(problem, parts, found.assignment), judge, bound)
        return _exact(best, problem, parts, segments, options, judge) if options.solver == "ilp" else best

    whole: Placement | None = None
    blocks, calls = _parts(candidate, whole_blocks=True), _parts(candidate, whole_blocks=False)
    if len(blocks) < len(calls) and len(blocks) >= _BLOCKS_EACH * segments * len(problem.positions):
        try:
            whole = placed(blocks)
        except NotShorter:
            if not fine or len(calls) > _MOST_CALLS:
                raise
        except (InfeasiblePlan, ConfigError):
            pass
    if whole is not None and (not fine or whole.gap <= _CLOSE or len(calls) > _MOST_CALLS):
        return whole
    single = placed(calls)
    if whole is not None and whole.makespan <= single.makespan * (1 + _CLEARLY):
        return whole
    return single


def _exact(
    best: Placement, problem: PlacementProblem, parts: list[list[int]], segments: int, options: Options, judge: Judge
) -> Placement:
    """What the integer program finds and bounds, within the solver's time limit, beside the best that is known.

    It bounds every placement where each part is a call; otherwise those only that leave the parts whole.
    """
    if len(parts) > _MOST_EXACT:
        return best
    most = 1 if options.schedule in ONE_STAGE else segments
    found = solve_mip(merged(problem, parts), most, options.time_limit)
    bound = max(best.bound, found.bound) if len(parts) == len(problem.calls) else best.bound
    chosen = best.assignment
    if found.assignment is not None:
        other = expanded(problem, parts, found.assignment)
        if judge.timeline(other) is not None and judge.seconds(other) < best.makespan:
            chosen = other
    return described(problem, chosen, judge, bound)


def _parts(candidate: Candidate, *, whole_blocks: bool) -> list[list[int]]:
    """The calls in order, in parts that stay together.

    These are what reads and replaces one buffer, what is divided by a count, and the blocks of repeats.
    """
    graph = candidate.built.graph
    number, readers, makers = {node.name: i for i, node in enumerate(graph.nodes)}, graph.consumers(), graph.producers()
    stored = {item.name: item.value for item in graph.parameters}
    together = [
        [number[node.name] for node in (*readers[stored[buffer]], makers[value]) if node.name in number]
        for buffer, value in graph.updates
    ]
    # a counter that only its own update reads goes with the call behind it
    together = [
        group if len(set(group)) > 1 else [*group, min(group[0] + 1, len(graph.nodes) - 1)] for group in together
    ]
    # what a count divides was made of the weights that the count was made of, and these lie where they are read
    counted = graph.division.counts if graph.division is not None else ()
    for item in graph.inputs:
        for reader in readers[item.value] if item.name in counted else ():
            sources = [number[makers[name].name] for name in reader.inputs if name in makers]
            together.append([number[reader.name], *sources])
    if whole_blocks:
        every = [nodes for repeat in candidate.built.repeats for nodes in repeat.nodes]
        together += [[number[node.name] for node in nodes] for nodes in every]
    parts: list[list[int]] = []
    end = 0
    spans = sorted((min(group), max(group) + 1) for group in together)
    for start, stop in [*spans, (len(graph.nodes), len(graph.nodes))]:
        if start < end:  # it overlaps with the part before
            parts[-1] += range(end, stop)
        else:
            parts += [[call] for call in range(end, start)]
            parts += [list(range(start, stop))] if stop > start else []
        end = max(end, stop)
    return parts
