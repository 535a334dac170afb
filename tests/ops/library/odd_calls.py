"""Calls of unusual shapes and arguments, each a function and what it is given, for the trial of the operator database."""

import torch
import torch.nn.functional as F
from torch.utils import _pytree as pytree

from benchmarks.compatibility.opdb_samples import DatabaseSample

GENERATOR = torch.Generator().manual_seed(0)


def x(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=GENERATOR, dtype=dtype).requires_grad_()


def sample(function, *given):
    leaves, spec = pytree.tree_flatten((given, {}))
    return DatabaseSample(function, tuple(leaves), spec)


NONE = torch.zeros(0, dtype=torch.int64)
EMPTIED = (
    sample(lambda a: torch.cat([a.new_zeros(0, 3), a]), x(4, 3)),
    sample(lambda a: a.split_with_sizes([2, 0, 3], 1), x(4, 5)),
    sample(lambda a: torch.cat([a[..., :6] * 2, a[..., 6:]], -1), x(2, 4, 6)),  # as rotary code does
    sample(F.linear, x(4, 0), x(6, 0), x(6)),
    sample(F.linear, x(4, 6), x(0, 6)),
    sample(torch.addmm, x(10), x(5, 0), x(0, 10)),
    sample(lambda a, b: F.relu(F.linear(a, b)), x(0, 6), x(4, 6)),
    sample(torch.matmul, x(2, 3, 0), x(2, 0, 4)),
    sample(lambda a, b: F.conv2d(a, b, padding=1), x(0, 2, 4, 4), x(3, 2, 3, 3)),
    sample(lambda a: a.sum(1), x(4, 0)),
    sample(lambda a: a.softmax(0), x(0, 3)),
    sample(lambda a: a.expand(0, 3) + 1, x(1, 3)),
    sample(lambda a, b: F.layer_norm(a, (6,), b), x(0, 6), x(6)),
    sample(lambda a: F.embedding(NONE, a), x(5, 6)),
    sample(lambda a: a[NONE], x(5, 6)),
    sample(lambda a: F.pixel_shuffle(a, 1), x(1, 0, 1, 1)),
    sample(torch.view_as_real, x(1, 0, 3, dtype=torch.complex128)),
)
LISTS = (  # of one entry, and views of entries
    sample(lambda a: a.split(5)[0], x(4, 3)),
    sample(lambda a: a.chunk(1, 1)[0] * 2, x(4, 3)),
    sample(lambda a: a.unbind(0)[0], x(1, 3)),
    sample(lambda a: torch.gradient(a)[0], x(5)),
    sample(lambda a: torch.meshgrid(a, indexing="xy")[0], x(5)),
    sample(lambda a: a.split(2, 1)[1].view(3, 4), x(3, 4, 2)),
    sample(lambda a: [one.view(-1) * 2 for one in a.transpose(0, 1).contiguous().unbind(0)], x(3, 4, 2)),
)
STATISTICS = (torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
ARGUMENTS = (
    sample(lambda a: a.tile(()), x(5)),
    sample(lambda a: a.repeat(()), x()),
    sample(lambda a: torch.add(a * (1 + 2j), 2j) - 1j * a, x(4, 3, dtype=torch.complex128)),
    sample(lambda a: torch.add(a, a * 2, alpha=complex(0, -1)), x(4, 3, dtype=torch.complex128)),
    sample(lambda a, b, c: torch.native_batch_norm(a, b, c, None, None, True, 0.1, 1e-5), x(4, 3, 2), x(3), x(3)),
    sample(lambda a, b, c: torch.native_batch_norm(a, None, None, b, c, True, 0.1, 1e-5), x(4, 3, 2), *STATISTICS),
    sample(lambda a, b, c: F.instance_norm(a, b, c, use_input_stats=True), x(4, 3, 5), *STATISTICS),
    sample(lambda a: F.group_norm(a, 4), x(2, 4)),
    sample(lambda a, b: torch._weight_norm(a, b, 1), x(4, 3), x(1, 3)),
    sample(lambda a: F.pad(a, (-1, 1), mode="circular"), x(2, 3, 6)),
    sample(lambda a: F.pad(a, (2, -1, -1, 0), mode="circular"), x(2, 3, 6)),
    sample(lambda a: F.pad(a, (-2, 1), mode="reflect"), x(2, 3, 6)),
)
