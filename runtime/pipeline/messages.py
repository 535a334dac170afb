"""Tensors between positions in one step: what is to come, when receives are posted, what has been sent.

What a rank receives, and in which order, follows from its list of actions. So receives are posted ahead of the actions that
need them (`autopar.ir.pipeline.receives`). Messages are told apart by tags, one per edge, micro-batch and direction: which of
two comes first makes no difference. Sends wait for nobody; who has sent keeps the tensor until it is through, and looks after it
between actions, since MPI moves messages only while somebody calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from autopar.ir.pipeline.receives import may_post
from autopar.ir.pipeline.schedule import Action
from autopar.runtime.pipeline.wiring import Crossing, Wiring
from autopar.runtime.transport.base import Comm, Work


@dataclass(frozen=True, slots=True)
class Message:
    """What an edge carries for one micro-batch between this position and another; `back` is the gradient's way."""

    edge: Crossing
    microbatch: int
    other: int
    back: bool

    def __str__(self) -> str:
        name = f"the gradient of {self.edge.spec.name}" if self.back else self.edge.spec.name
        return f"{name} of micro-batch {self.microbatch}"

    def tag(self, microbatches: int) -> int:
        """A number that no other message between these two positions has."""
        return 2 * (self.edge.number * microbatches + self.microbatch) + self.back


def needs(wires: Wiring, position: int, actions: Sequence[Action]) -> list[list[Message]]:
    """What each action of a position's list is the first to need of other positions."""
    known: set[tuple[str, int]] = set()
    needed: list[list[Message]] = []
    for kind, number, m in actions:
        segment, row = wires.segments[number], []
        for name in segment.reads if kind == "F" else segment.writes if kind == "B" else ():
            edge = wires.edges.get(name)
            if edge is None:
                continue
            if kind == "F" and edge.position != position and (name, m) not in known:
                known.add((name, m))
                row.append(Message(edge, m, edge.position, back=False))
            elif kind == "B" and edge.spec.differentiable:
                row += [Message(edge, m, other, back=True) for other in edge.others]
        needed.append(row)
    return needed


class Mail:
    """The messages of one step of a position. `room` makes the tensor that a message is received in."""

    def __init__(
        self,
        comm: Comm,
        wires: Wiring,
        needed: Sequence[Sequence[Message]],
        room: Callable[[Message], Tensor],
        user: Callable[[int], str],
    ) -> None:
        self._comm = comm
        self._microbatches = wires.microbatches
        self._needed = needed
        self._room = room
        self._user = user  # what to call an action of the list in messages
        self._posted = 0  # actions whose receives are posted
        self._ahead = 0  # bytes of receives that nobody has waited for
        self._coming: dict[tuple[int, int], tuple[Tensor, Work]] = {}  # by tag and sender
        self._sent: list[tuple[Tensor, Work]] = []

    def post(self, now: int) -> None:
        """Post the receives of the actions up to number `now`, and of some behind it."""
        while self._posted < len(self._needed) and may_post(self._posted, now, self._ahead):
            for message in self._needed[self._posted]:
                tensor = self._room(message)
                what = f"{message} for {self._user(self._posted)}"
                tag = message.tag(self._microbatches)
                work = self._comm.start_receive(tensor, message.other, tag, what)
                self._coming[tag, message.other] = tensor, work
                self._ahead += tensor.nbytes
            self._posted += 1

    def take(self, message: Message) -> Tensor:
        """A message that has been posted, once it is there."""
        tensor, work = self._coming.pop((message.tag(self._microbatches), message.other))
        work.wait()
        self._ahead -= tensor.nbytes
        return tensor

    def send(self, message: Message, tensor: Tensor, sender: str) -> None:
        """Begin to send."""
        what = f"{message} from {sender}"
        tensor = tensor.detach().contiguous()
        work = self._comm.start_send(tensor, message.other, message.tag(self._microbatches), what)
        self._sent.append((tensor, work))

    def look(self) -> None:
        """Let messages move on, and let go of what has been sent."""
        self._sent = [(tensor, work) for tensor, work in self._sent if not work.test()]

    def finish(self) -> None:
        """Return once all is sent."""
        while self._sent:
            self._sent.pop(0)[1].wait()
