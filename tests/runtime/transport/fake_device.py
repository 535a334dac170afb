"""A device that is made of CPU memory, with what makes a device hard: it works when somebody waits for it.

Copies that do not block, conversions, and the computing of `on_device` tensors are put off until then. Who reads a host
buffer too early finds garbage, and who reuses one too early spoils what is still to be copied.
"""

import threading
from types import SimpleNamespace

import torch
from torch import Tensor

from autopar.runtime.transport.device import Device, HostBuffers


class Stream(threading.local):
    """What the device of this rank has still to do."""

    def __init__(self):
        self.jobs = []
        self.done = 0

    def mark(self, tensor):
        assert isinstance(tensor, OnDevice)
        upto = len(self.jobs)
        return SimpleNamespace(synchronize=lambda: self.run(upto))

    def run(self, upto):
        while self.done < upto:
            target, source = self.jobs[self.done]
            target.copy_(source)
            self.done += 1


STREAM = Stream()


class OnDevice(Tensor):
    """A tensor of the device: copies from and to it that do not block are put off, and conversions there too."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is Tensor.copy_ and (kwargs or {}).get("non_blocking"):
            STREAM.jobs.append((plain(args[0]), plain(args[1])))
            return args[0]
        if func in (Tensor.float, Tensor.int):
            result = torch.full(args[0].shape, 77, dtype=torch.float32 if func is Tensor.float else torch.int32)
            STREAM.jobs.append((result, plain(args[0])))
            return result.as_subclass(OnDevice)
        return super().__torch_function__(func, types, args, kwargs or {})


def plain(tensor):
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(Tensor)


def garbage(tensor):
    return torch.full_like(tensor, 77)


def on_device(tensor):
    """The same on the device, where it has yet to be computed."""
    there = garbage(tensor).as_subclass(OnDevice)
    STREAM.jobs.append((plain(there), tensor))
    return there


def computed(tensor):
    """The same on the device, where it is computed: what torch does with it need not be put off."""
    return tensor.as_subclass(OnDevice)


def read(tensor):
    if isinstance(tensor, OnDevice):
        STREAM.run(len(STREAM.jobs))
    return plain(tensor).clone()


class Buffers:
    """A device of this rank, and the host buffers made for it."""

    def __init__(self):
        self.made = []
        self.host = HostBuffers(Device(lambda tensor: not isinstance(tensor, OnDevice), self.make, STREAM.mark))

    def make(self, numel, dtype):
        self.made.append(garbage(torch.empty(numel, dtype=dtype)))
        return self.made[-1]
