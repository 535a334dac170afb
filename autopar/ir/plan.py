"""A plan: what was decided, at what predicted cost, as a small JSON file. No code, no pickle; same input, same bytes.

The plan names everything by the user's names. Layouts are written as words (``"shard 1 as 3x_x64"``), one per grid axis.
What it was decided for stands in it as well: the options, the whole machine profile, the hash of the model file;
files of plans are written, read and checked by `autopar.ir.plan_file`.
"""

from __future__ import annotations

from dataclasses import dataclass

from autopar.ir.batch_sizes import ANY, MicrobatchPlan, Sizes, divided_rows
from autopar.ir.grid import GridShape
from autopar.ir.machine import Machine
from autopar.ir.pipeline.placement_plan import PlacementPlan
from autopar.ir.units import gives_back

VERSION = 3


@dataclass(frozen=True, slots=True)
class ModelSource:
    """The user's model file relative to the plan's folder ("" for a live module), its hash, and the attribute used."""

    path: str
    sha256: str
    attribute: str = "model"


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """An input, parameter or buffer: what it is, the layouts in which the program receives it, and the calls that read it.

    Where the graph is divided, `segments` are those that read a parameter or buffer, by their numbers.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: str  # "input", or the kind of a graph.Parameter
    layouts: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    segments: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class AxisChoice:
    """What an operator does on one axis: its mode, the letter split, and the layouts of operands and results there."""

    mode: str
    letter: str
    blocks: int
    unit: int
    operands: tuple[str, ...]
    results: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InnerPlan:
    """Communication inside an operator's distributed form."""

    primitive: str
    axis: str
    bytes_forward: float
    bytes_adjoint: float
    seconds_forward: float
    seconds_adjoint: float

    @property
    def seconds(self) -> float:
        """Forward plus adjoint."""
        return self.seconds_forward + self.seconds_adjoint


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One operator call. Seconds are those of the rank that takes longest; `letters` is the operator's notation."""

    name: str
    target: str
    letters: str
    module: str
    source: str
    code: str
    shape: tuple[int, ...]
    choices: tuple[AxisChoice, ...]
    seconds_forward: float
    seconds_backward: float
    saved_bytes: int
    ruled: bool  # false where the operator has no rule and runs whole on every rank
    inner: tuple[InnerPlan, ...] = ()
    ranks: tuple[float, ...] = ()  # of the seconds, the share that each rank takes; () where all take them in full

    @property
    def seconds(self) -> float:
        """What it computes, forward and backward."""
        return self.seconds_forward + self.seconds_backward

    def within(self, path: str) -> bool:
        """Whether the call is made by the module at `path`, or by one in it."""
        return self.module == path or self.module.startswith(path + ".")


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """One primitive between two operators: the value it converts, over which axis, for whom, and what it moves per rank."""

    value: str
    primitive: str
    axis: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    consumers: tuple[str, ...]
    module: str
    times: int  # how often it runs in a step: the number of blocks that share the line
    bytes_forward: float
    bytes_adjoint: float
    seconds_forward: float
    seconds_adjoint: float

    @property
    def seconds(self) -> float:
        """Forward plus adjoint."""
        return self.seconds_forward + self.seconds_adjoint


@dataclass(frozen=True, slots=True)
class Predicted:
    """One training step on one rank: seconds by cause and peak bytes by cause.

    Where ranks are not alike, the seconds are those of the rank that waits least, the bytes those of the one that fills most of
    its memory.

    Where the graph is divided, the seconds are those of the position that works longest, with those in which it stands `idle`
    till the step ends, and the bytes those of the position that holds most. `gradients` are the seconds of gradient sums that
    do not hide behind backward, by the step's timeline. The bytes are those that are held at the peak, when `peak_during` runs
    (`autopar.codegen.memory_footprint`): whole inputs; parameters; gradients, or the buckets that they lie in; the optimizer's
    state; what is kept for backward; buffers of conversions; what comes and goes.
    """

    compute: float
    communication: float
    gradients: float
    update: float
    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    inputs_bytes: int
    buffers_bytes: int
    transients_bytes: int
    peak_during: str
    idle: float = 0.0
    stalls: float = 0.0  # what stalls of ranks are expected to add (`Machine.stalls`)

    @property
    def seconds(self) -> float:
        """The whole step."""
        return self.compute + self.communication + self.gradients + self.update + self.idle + self.stalls

    @property
    def bytes(self) -> int:
        """The peak."""
        standing = self.inputs_bytes + self.parameters_bytes + self.gradients_bytes + self.optimizer_bytes
        return standing + self.activations_bytes + self.buffers_bytes + self.transients_bytes


@dataclass(frozen=True, slots=True)
class RankPlan:
    """One rank where ranks are not alike: its speed, seconds of its calls and of its update, bytes that it may hold and holds."""

    speed: float
    compute: float
    update: float
    memory: float
    peak: int


@dataclass(frozen=True, slots=True)
class SolverReport:
    """How the plan was found. Wall-clock seconds are not part of it, so that same input gives same bytes.

    `unhidden` is the share of what the machine hides of gradient sums that `cost` and `bound` take as waited for.
    """

    method: str
    cost: float
    bound: float
    variables: int
    strategies: int
    tied_loss: (
        float | None
    )  # share of the cost that repeated blocks of one choice cost more, at most; None: not computed
    unhidden: float = 0.0

    @property
    def gap(self) -> float:
        """Relative distance of the cost from the proven lower bound."""
        return max(0.0, self.cost - self.bound) / self.cost if self.cost > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for. `memory` is bytes per rank, None for the machine's; `time_limit` seconds for the solver."""

    memory: float | None
    solver: str
    optimizer: str
    pins: tuple[str, ...]
    bans: tuple[str, ...]
    loss: str | None
    time_limit: float
    outputs: tuple[str, ...]
    measure: bool = False  # whether calls were timed on the machine
    recompute: str = "auto"  # whether repeated blocks are computed again in backward: auto, always or never
    plan: str = "auto"  # or the baseline that was asked for
    batch_sizes: tuple[int, ...] = ()  # numbers of rows that batches will have
    microbatches: str = ""  # into how many micro-batches a batch is divided, or auto; "": 1, and auto with a place axis
    schedule: str = "auto"  # of a divided graph, by name
    segments: int | None = None  # at most on a position; None: as the schedule needs
    parts: bool = False  # whether every rank is given its parts of the inputs, and not the whole


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """What the program returns beside the loss: its path in what forward returns, and the layouts in which it is left.

    `rows` are the dims that grow with the batch, `needs` the inputs that it is made of: others may be missing in inference.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    layouts: tuple[str, ...]
    rows: tuple[int, ...]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """The batch: how many `rows` were compiled for, and the `inputs` that have them along dim 0.

    A step may bring another number of rows, one of `sizes`, unless `fixed` says why not. `filled` are the factors of the
    plan's that grow with the batch: every rank needs a row of them.
    """

    rows: int
    inputs: tuple[str, ...]
    fixed: str
    filled: tuple[tuple[tuple[str, ...], int], ...]
    sizes: Sizes = ANY
    others: tuple[int, ...] = ()  # numbers of rows with a program of their own
    division: MicrobatchPlan | None = (
        None  # of a batch that is computed in micro-batches: fixed and sizes are then about these
    )

    def accepts(self, rows: int) -> bool:
        """Whether the program takes a batch of so many rows."""
        if self.division is not None:
            return bool(divided_rows(rows, self.rows, self.division, self.fixed, self.sizes))
        return rows == self.rows or (not self.fixed and self.sizes.accepts(rows))


@dataclass(frozen=True, slots=True)
class WorkPlan:
    """Compute seconds of a step, undivided, that get smaller by the same cuts; each factor of `cuts` is (axes, extent).

    A rank has the part that its rows are of every factor, all of it where there are no factors. Where the graph is divided,
    it is that of one `segment`.
    """

    cuts: tuple[tuple[tuple[str, ...], int], ...]
    seconds: float
    segment: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the program a call or a conversion is: the expression `text` in a function.

    `calls` are the names of the call in the rounds of a repeated block, of one call otherwise; `conversion` is a place in the
    plan's list. The text is empty where a call prints nothing of its own.
    """

    function: str
    text: str
    calls: tuple[str, ...]
    conversion: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that was decided for one model on one grid."""

    version: int
    autopar: str
    name: str
    grid: str
    machine: Machine
    model: ModelSource
    options: Options
    graph_sha256: str
    program_sha256: str
    inputs: tuple[TensorPlan, ...]
    parameters: tuple[TensorPlan, ...]
    nodes: tuple[NodePlan, ...]
    conversions: tuple[ConversionPlan, ...]
    repeats: tuple[tuple[str, tuple[str, ...]], ...]  # (path of a block list, the members that share one function)
    predicted: Predicted
    single: float  # predicted seconds of the same step on one rank
    solver: SolverReport
    filled: tuple[tuple[tuple[str, ...], int], ...]  # (axes, extent) of each factor of which every rank needs a row
    batch: BatchPlan
    recomputed: tuple[bool, ...]  # per entry of `repeats`, whether backward computes its blocks' forward again
    evaluation: str  # why the program cannot evaluate, empty where it can
    loss: str  # the path of the loss in what forward returns
    outputs: tuple[OutputPlan, ...]
    training: str  # why the program cannot be put into training, empty where it can
    evaluates: bool  # whether it starts in evaluation, as the model that was compiled
    places: tuple[Place, ...]  # in the order of the text
    work: tuple[WorkPlan, ...]  # compute seconds by what cuts them, `autopar.costmodel.work_shares`
    placement: PlacementPlan | None  # where the grid has a place axis
    cuts: tuple[tuple[str, tuple[float, ...]], ...] = ()  # by axis name, the fractions of those that do not cut evenly
    ranks: tuple[RankPlan, ...] = ()  # where they are not alike

    @property
    def gives_back(self) -> bool:
        """Whether some rank gives freed memory back at once (`autopar.ir.units`)."""
        return gives_back(self.predicted.bytes, self.options.memory or min(self.machine.memories(self.shape.size)))

    @property
    def shape(self) -> GridShape:
        """The grid with its cuts."""
        return GridShape.parse(self.grid).cut(dict(self.cuts))
