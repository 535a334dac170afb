"""Runs of windowed layers drawn at random, done whole by torch, and compared with what ranks do on their parts."""

import itertools

import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from autopar.runtime import AvgPool, Conv, ConvTranspose, Grid, Interpolate, MaxPool, Pad, simulate
from autopar.runtime.windowed.window_layers import WindowLayer, each

CONV = (F.conv1d, F.conv2d, F.conv3d)
CONV_TRANSPOSE = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
MAX_POOL = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
AVG_POOL = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
CUTS = (0.0, 0.1, 0.4, 0.7, 1.0)
MODES = ("zeros", "reflect", "replicate", "circular")


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def padded(x, numbers, mode, value=0.0):
    return F.pad(x, numbers, value=value) if mode == "zeros" else F.pad(x, numbers, mode)


def whole_layer(x, layer):
    """One layer on the whole tensor, by torch."""
    if not isinstance(layer, WindowLayer):
        return layer(x)
    i = layer.spatial - 1
    if isinstance(layer, Conv):
        pads = [n for p in reversed(each(layer.padding, i + 1)) for n in (p, p)]
        given = layer.weight, layer.bias, layer.stride, 0, layer.dilation, layer.groups
        return CONV[i](padded(x, pads, layer.mode), *given)
    if isinstance(layer, ConvTranspose):
        given = layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
        return CONV_TRANSPOSE[i](x, layer.weight, layer.bias, *given)
    if isinstance(layer, MaxPool):
        return MAX_POOL[i](x, layer.kernel, layer.stride, layer.padding, layer.dilation)
    if isinstance(layer, AvgPool):
        given = layer.stride, layer.padding
        return AVG_POOL[i](x, layer.kernel, *given, count_include_pad=layer.count_include_pad)
    if isinstance(layer, Pad):
        return padded(x, layer.padding, layer.mode, layer.constant)
    assert isinstance(layer, Interpolate)
    return F.interpolate(x, layer.size, layer.scale_factor, layer.kind, layer.align_corners)


def whole_run(x, layers):
    for layer in layers:
        x = whole_layer(x, layer)
    return x


def parameters(layers):
    return [one for layer in layers if isinstance(layer, Conv | ConvTranspose) for one in layer.learned()]


def copied(layers):
    """The layers with parameters of their own, for one rank."""
    fresh = []
    for layer in layers:
        if isinstance(layer, Conv | ConvTranspose):
            named = {name: getattr(layer, name) for name in type(layer).__dataclass_fields__}
            learned = ("weight", "bias")
            own = {k: named[k].detach().clone().requires_grad_() for k in learned if named[k] is not None}
            layer = type(layer)(**{**named, **own})
        fresh.append(layer)
    return fresh


@st.composite
def layouts(draw, spatial, most=3):
    """Which spatial dims are split over axes of which sizes, with which cuts."""
    split = draw(st.permutations(range(spatial)))[: draw(st.integers(1, min(most, spatial)))]
    largest = {1: 5, 2: 3, 3: 2}[len(split)]
    sizes = [draw(st.integers(1, largest)) for _ in split]
    cuts = []
    for size in sizes:
        points = draw(st.none() | st.lists(st.sampled_from(CUTS), min_size=size - 1, max_size=size - 1))
        cuts.append(None if points is None else (0.0, *sorted(points), 1.0))
    return tuple(2 + dim for dim in split), sizes, cuts


def place(axis, extent):
    bounds = axis.bounds(extent)
    return slice(bounds[axis.index], bounds[axis.index + 1])


def local(tensor, axes, dims):
    where = [slice(None)] * tensor.dim()
    for axis, dim in zip(axes, dims, strict=True):
        where[dim] = place(axis, tensor.shape[dim])
    return tensor[tuple(where)]


def compare(x, layers, layout, function, tolerance=1e-11):
    """Raises AssertionError unless ``function(part of x, layers, over)`` makes the parts of the whole run, in value,
    gradient of x and gradients of the parameters."""
    dims, sizes, cuts = layout
    x = x.clone().requires_grad_()
    wanted = whole_run(x, layers)
    dy = random(*wanted.shape, seed=9)
    grads = torch.autograd.grad(wanted, (x, *parameters(layers)), dy)

    def rank_main():
        axes = Grid("x".join(map(str, sizes))).axes
        for axis, one in zip(axes, cuts, strict=True):
            axis.move(one)
        over = {dim: (axis, x.shape[dim]) for axis, dim in zip(axes, dims, strict=True)}
        mine, own = local(x.detach(), axes, dims).clone().requires_grad_(), copied(layers)
        y = function(mine, own, over)
        close(y.detach(), local(wanted.detach(), axes, dims))
        dx, *rest = torch.autograd.grad(y, (mine, *parameters(own)), local(dy, axes, dims))
        close(dx, local(grads[0], axes, dims))
        for ours, theirs in zip(rest, grads[1:], strict=True):
            for axis in axes:
                axis.comm.all_reduce(ours)
            close(ours, theirs)

    def close(ours, theirs):
        said = f"{layers} {layout} {tuple(x.shape)}"
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance, msg=lambda m: f"{said}: {m}")

    ranks = list(itertools.accumulate(sizes, lambda a, b: a * b))[-1]
    simulate(ranks, rank_main)
