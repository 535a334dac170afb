"""Models that keep something in Python from one call of forward to the next: counters, tensors, lists.

A line marked ``# refused`` is where a model must be refused; the others train as torch trains them.
"""

import collections

import torch
from torch.utils.checkpoint import checkpoint
from unseen import Net, forms_of

COUNT = 0


class Counter(Net):
    def change(self, h):
        self.n += 1  # refused
        return self.b(h) * self.n


class Warmup(Net):
    def change(self, h):
        self.n += 1  # refused
        return self.b(h) if self.n > 1000 else 2 * self.b(h)


class CountOnly(Net):
    """Nobody reads what is counted."""

    def change(self, h):
        self.n += 1
        return self.b(h)


class Remembered(Net):
    def change(self, h):
        y = self.b(h)
        y = y if self.h is None else y + self.h
        self.h = y.detach()  # refused
        return y


class LastSeen(Net):
    """Nobody reads the attribute."""

    def change(self, h):
        self.h = self.b(h)
        return self.h * 2


class Scheduled(Net):
    def change(self, h):
        self.scale = self.scale * 0.9  # refused
        return self.b(h) * self.scale


class Appended(Net):
    def change(self, h):
        self.list.append(h.detach())  # refused
        return self.b(sum(self.list))


class Logged(Net):
    def change(self, h):
        self.list.append(h.detach())
        return self.b(h)


class Queue(Net):
    def __init__(self):
        super().__init__()
        self.queue = collections.deque(maxlen=3)

    def change(self, h):
        y = self.b(h) * (len(self.queue) + 1)
        self.queue.append(0)  # refused
        return y


class Cached(Net):
    """A value that is computed once and stays what it was."""

    def change(self, h):
        if "eye" not in self.dict:
            self.dict["eye"] = torch.eye(8, dtype=h.dtype)
        return self.b(h) * self.dict["eye"]


class Collected(Net):
    """Filled anew by every forward."""

    def change(self, h):
        self.list.clear()
        self.list.append(self.b(h))
        self.list.append(h)
        return sum(self.list)


class Keyed(Net):
    def change(self, h):
        y = self.b(h) + self.dict.get("h", 0)
        self.dict["h"] = y.detach()  # refused
        return y


class Alternating(Net):
    def change(self, h):
        self.state = not self.state  # refused
        return self.b(h) if self.state else self.b(2 * h)


class Global(Net):
    def change(self, h):
        global COUNT  # noqa: PLW0603
        COUNT += 1  # refused
        return self.b(h) * COUNT


class ClassAttribute(Net):
    def change(self, h):
        ClassAttribute.calls = getattr(ClassAttribute, "calls", 0) + 1  # refused
        return self.b(h) * ClassAttribute.calls


class SwapBufferData(Net):
    def change(self, h):
        self.kept.data = self.kept * 0.5
        return self.b(h) * self.kept


class NewBuffer(Net):
    def change(self, h):
        self.kept = self.kept * 0.5
        return self.b(h) * self.kept


class Memo:
    def __init__(self):
        self.calls = 0

    def next(self):
        self.calls += 1  # refused
        return self.calls


class InnerState(Net):
    """State of a part, in an object that is no module."""

    made_of = (Memo,)

    def __init__(self):
        super().__init__()
        self.memo = Memo()

    def change(self, h):
        return self.b(h) * self.memo.next()


class StateInHook(Net):
    def __init__(self):
        super().__init__()
        self.b.register_forward_hook(self.count)

    def count(self, module, args, out):
        self.n += 1  # refused
        return out * self.n

    def change(self, h):
        return self.b(h)


class Schedule(Net):
    def __init__(self):
        super().__init__()
        self.b.register_forward_pre_hook(lambda m, args: setattr(self, "n", self.n + 1))  # refused

    def change(self, h):
        return self.b(h) * self.n


class CounterInCheckpoint(Net):
    def inner(self, h):
        self.n += 1  # refused
        return self.b(h) * self.n

    def change(self, h):
        return checkpoint(self.inner, h, use_reentrant=False)


FORMS = forms_of(globals())
