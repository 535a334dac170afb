"""Models with what a graph of operators does not show: hooks, attributes that change, writing without a gradient.

A line marked ``# refused`` is where a model must be refused; the others train as torch trains them.
"""

import torch
import torch.nn.functional as F
from small_models import normal
from torch import nn
from torch.utils.checkpoint import checkpoint

SEEN = {}


class Net(nn.Module):
    """Two layers, between which `change` does something; buffers and attributes for it to use."""

    state: object = None
    made_of = ()

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 8)
        self.register_buffer("kept", torch.ones(8))
        self.n, self.h, self.list, self.dict, self.scale = 0, None, [], {}, 1.0

    def forward(self, x):
        return self.change(self.a(x)).square().mean()


# ---- hooks


class TensorHook(Net):
    def change(self, h):
        h.register_hook(lambda grad: grad * 0.5)  # refused
        return self.b(h)


class WatchingHook(Net):
    def change(self, h):
        h.register_hook(self.list.append)  # refused
        return self.b(h)


class HookInCheckpoint(Net):
    def change(self, h):
        return checkpoint(self.inner, h, use_reentrant=False)

    def inner(self, h):
        h = self.b(h)
        h.register_hook(torch.sign)  # refused
        return h


class HookInReentrant(HookInCheckpoint):
    def change(self, h):
        return checkpoint(self.inner, h, use_reentrant=True)


class HookOnNode(Net):
    def change(self, h):
        h = self.b(h)
        h.grad_fn.register_hook(lambda into, out: tuple(2 * one for one in into))  # refused
        return h


class HookBeforeNode(Net):
    def change(self, h):
        h = self.b(h)
        h.grad_fn.register_prehook(lambda out: tuple(2 * one for one in out))  # refused
        return h


class HookOnSeveral(Net):
    def change(self, h):
        torch.autograd.graph.register_multi_grad_hook([h], lambda grads: None)  # refused
        return self.b(h)


class HookOnParameter(Net):
    def __init__(self):
        super().__init__()
        self.b.weight.register_hook(lambda grad: grad * 2)  # refused

    def change(self, h):
        return self.b(h)


class HookAfterGradient(Net):
    def __init__(self):
        super().__init__()
        self.b.weight.register_post_accumulate_grad_hook(lambda p: p.grad.mul_(2))  # refused

    def change(self, h):
        return self.b(h)


class ModuleBackward(Net):
    def __init__(self):
        super().__init__()
        self.b.register_full_backward_hook(lambda m, into, out: tuple(3 * one for one in into))  # refused

    def change(self, h):
        return self.b(h)


class ModuleBackwardPre(Net):
    def __init__(self):
        super().__init__()
        self.b.register_full_backward_pre_hook(lambda m, out: tuple(3 * one for one in out))  # refused

    def change(self, h):
        return self.b(h)


class ModuleBackwardOld(Net):
    def __init__(self):
        super().__init__()
        self.b.register_backward_hook(lambda m, into, out: None)  # refused

    def change(self, h):
        return self.b(h)


class HookOnTheWay(Net):
    def change(self, h):
        self.b.register_full_backward_hook(lambda m, into, out: None)  # refused
        return self.b(h)


class ForwardHooks(Net):
    """Hooks that see and change what goes forward are part of the graph."""

    def __init__(self):
        super().__init__()
        self.b.register_forward_pre_hook(lambda m, args: (2 * args[0],))
        self.b.register_forward_hook(lambda m, args, out: out.tanh())
        self.b.register_forward_hook(lambda m, args, out: SEEN.update(last=out))

    def change(self, h):
        return self.b(h)


class SavedTensors(Net):
    def change(self, h):
        with torch.autograd.graph.saved_tensors_hooks(lambda x: x.round(), lambda x: x):  # refused
            return self.b(h.tanh())


class SavedOnCpu(Net):
    def change(self, h):
        with torch.autograd.graph.save_on_cpu():
            return self.b(h.tanh())


# ---- gradients that are cut or kept


class DetachInPlace(Net):
    def change(self, h):
        h = self.b(h)
        g = h * 2
        g.detach_()
        return h * g


class Data(Net):
    def change(self, h):
        return h.data * self.b(h)


class DetachBefore(Net):
    """A detached tensor sees what is written to the one it was taken of, and lets no gradient through."""

    def change(self, h):
        h = self.b(h)
        d = h.detach()
        return h * d


class RequiresGrad(Net):
    def change(self, h):
        d = h.detach()
        d.requires_grad_()
        return self.b(d) + h


class RequiresGradOff(Net):
    def change(self, h):
        self.b.weight.requires_grad_(False)  # refused
        return self.b(h)


class NoGradRegion(Net):
    def change(self, h):
        with torch.no_grad():
            scale = self.b(h).abs().mean()
        return self.b(h) / scale


class EnableGrad(Net):
    def change(self, h):
        with torch.no_grad():
            with torch.enable_grad():
                inner = self.b(h)
            outer = self.b(h)
        return inner * outer


class HandedThrough(Net):
    """What gives back its argument as it is leaves it its gradient, also for those that read it later."""

    def change(self, h):
        with torch.no_grad():
            scale = torch.atleast_1d(h.to(h.dtype).contiguous()).abs().mean() + 1
        return self.b(h) / scale


class HandedOut(Net):
    def change(self, h):
        with torch.no_grad():
            same, other = F.dropout(h.type_as(h), 0.3, False), h.reshape(h.shape)
        return self.b(same) * other


class BestOfLinear(Net):
    def change(self, h):
        with torch.no_grad():
            best = self.b(h).topk(2, -1).indices.to(torch.int32)
        return self.b(h).gather(1, best.long())


class SetGradEnabled(Net):
    def change(self, h):
        torch.set_grad_enabled(False)
        scale = self.b(h)
        torch.set_grad_enabled(True)
        return self.b(h) * scale


class Decorated(Net):
    @torch.no_grad()
    def scaled(self, h):
        return self.b(h).abs() + 1

    def change(self, h):
        return self.b(h) / self.scaled(h)


class Inference(Net):
    def change(self, h):
        with torch.inference_mode():
            scale = self.kept * 2
        return self.b(h) + scale.sum()


def forms_of(names):
    """The models among the names of a file."""
    kinds = [one for one in names.values() if isinstance(one, type) and issubclass(one, Net) and one is not Net]
    return {kind.__name__: kind for kind in kinds}


FORMS = forms_of(globals())


def inputs():
    return {"x": normal(8, 6)}
