"""Receives are posted ahead as far as bytes allow, and every message has a tag of its own."""

from types import SimpleNamespace

import divided_programs as divided
import torch

from autopar.ir.pipeline import receives
from autopar.ir.pipeline.schedule import parse_schedule
from autopar.runtime.pipeline.messages import Mail, needs
from autopar.runtime.pipeline.wiring import wiring
from autopar.runtime.program.pipeline import Pipeline, Segment


def wires(at, text):
    functions = divided.segments((), 0.0)
    rows = [
        Segment(function, position, reads, writes)
        for function, position, reads, writes in zip(functions, at, divided.READS, divided.WRITES, strict=True)
    ]
    pipeline = Pipeline(rows, {name: [] for name in "xhgk"}, text, returns=["loss", "logits"])
    return wiring(pipeline, ["ids", "labels"], divided.description("stage:2", 1).edges, 1 + max(at))


def test_an_action_is_the_first_to_need_a_message_and_tags_are_apart():
    at = (0, 1, 0, 1)
    text = divided.named("interleaved", at, 4)
    made, lists = wires(at, text), parse_schedule(text)
    tags = {0: set(), 1: set()}
    sent = {0: 0, 1: 0}
    for position, actions in enumerate(lists):
        needed = needs(made, position, actions)
        for message in (message for row in needed for message in row):
            assert message.other == 1 - position
            tags[position].add(message.tag(made.microbatches))
            sent[position] += 1
    assert {position: len(each) for position, each in tags.items()} == sent
    assert sent == {0: 4 * 4, 1: 4 * 4}  # h, x, k and the gradient of g go there, their like come back


def test_receives_are_posted_ahead_within_bounds(monkeypatch):
    monkeypatch.setattr(receives, "_BYTES", 100)
    at, text = (0, 1, 0, 1), divided.named("gpipe", (0, 1, 0, 1), 5)
    made = wires(at, text)
    needed = needs(made, 1, parse_schedule(text)[1])
    posted = []

    def start_receive(tensor, source, tag, what):
        posted.append((tag, what))
        return SimpleNamespace(wait=lambda: None)

    comm = SimpleNamespace(start_receive=start_receive)
    mail = Mail(comm, made, needed, lambda _: torch.zeros(10), lambda number: f"action {number}")
    mail.post(0)
    assert len(posted) == 3  # of 40 bytes
    assert posted[0][1] == "h of micro-batch 0 for action 0"
    mail.post(0)
    assert len(posted) == 3
    mail.take(needed[0][0])
    mail.post(1)
    assert len(posted) == 4
    mail.post(4)
    assert len(posted) == 5  # what the action needs is posted, whatever else is under way
