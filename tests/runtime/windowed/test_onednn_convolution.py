"""A convolution in two halves is the convolution, and is taken where torch would leave a volume to its slow path."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.runtime.windowed import onednn_convolution
from autopar.runtime.windowed.onednn_convolution import (
    Spacing,
    convolve,
    convolve_transposed,
    in_halves,
    transposed_in_halves,
)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_halves_make_the_whole(data):
    cut = data.draw(st.integers(0, 2))
    kernel, stride, dilation = (tuple(data.draw(st.integers(1, 3)) for _ in range(3)) for _ in range(3))
    padding = tuple(0 if i == cut else data.draw(st.integers(0, 2)) for i in range(3))
    least = [
        d * (k - 1) + 1 + (s if i == cut else 0)
        for i, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True))
    ]
    shape = [n + data.draw(st.integers(0, 4)) for n in least]
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True)
        for size in [(1, 2, *shape), (3, 2, *kernel), (3,)]
    )
    wanted = F.conv3d(x, weight, bias, stride, padding, dilation)
    got = in_halves(x, weight, bias, Spacing(stride, padding, dilation), cut)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    dy = torch.randn(wanted.shape, generator=generator, dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(got, [x, weight, bias], dy), torch.autograd.grad(wanted, [x, weight, bias], dy), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_transposed_halves_make_the_whole(data):
    """Windows that overlap, touch or leave gaps; odd and even numbers of rows."""
    cut = data.draw(st.integers(0, 2))
    kernel, stride, dilation = (tuple(data.draw(st.integers(1, 3)) for _ in range(3)) for _ in range(3))
    others = [i for i in range(3) if i != cut]
    padding, extra = [0, 0, 0], [0, 0, 0]
    for i in others:
        padding[i] = data.draw(st.integers(0, dilation[i] * (kernel[i] - 1) // 2))
        extra[i] = data.draw(st.integers(0, max(stride[i], dilation[i]) - 1))
    shape = [data.draw(st.integers(2 if i == cut else 1, 5)) for i in range(3)]
    generator = torch.Generator().manual_seed(0)
    x, weight = (
        torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True)
        for size in [(1, 2, *shape), (2, 3, *kernel)]
    )
    wanted = F.conv_transpose3d(x, weight, None, stride, padding, extra, 1, dilation)
    got = transposed_in_halves(x, weight, Spacing(stride, tuple(padding), dilation, tuple(extra)), cut)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    dy = torch.randn(wanted.shape, generator=generator, dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(got, [x, weight], dy), torch.autograd.grad(wanted, [x, weight], dy), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_where_the_transposed_is_cut(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    calls = []

    def spy(*arguments):
        calls.append(arguments)
        return transposed_in_halves(*arguments)

    monkeypatch.setattr(onednn_convolution, "transposed_in_halves", spy)

    def cut(channels, kernel, stride, padding, batch=1):
        calls.clear()
        x = torch.randn(batch, channels, 9, 12, 12, generator=generator)
        weight, bias = torch.randn(channels, 8, *[kernel] * 3, generator=generator), torch.ones(8)
        got = convolve_transposed(x, weight, bias, Spacing((stride,) * 3, (0, padding, padding), (1,) * 3, (0,) * 3), 1)
        wanted = F.conv_transpose3d(x.double(), weight.double(), bias.double(), stride, (0, padding, padding))
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-4)
        return bool(calls)

    assert cut(8, 3, 1, 1)
    assert not cut(8, 3, 1, 1, batch=2)
    assert not cut(8, 2, 2, 0)  # windows do not overlap: torch's own way is a matrix product
    assert not cut(1, 3, 1, 1)  # not worth it


def taken(monkeypatch, x, weight, padding=(0, 1, 1), groups=1):
    """Whether `convolve` cuts in two; its result is that of torch either way."""
    calls = []

    def spy(*arguments):
        calls.append(arguments)
        return in_halves(*arguments)

    monkeypatch.setattr(onednn_convolution, "in_halves", spy)
    got = convolve(x, weight, None, Spacing((1, 1, 1), padding, (1, 1, 1)), groups)
    wanted = F.conv3d(x.double(), weight.double(), None, 1, padding, 1, groups)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-4)
    return bool(calls)


def test_where_it_is_taken(monkeypatch):
    generator = torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.randn(shape, generator=generator)

    x, weight = random(1, 8, 11, 16, 16), random(8, 8, 3, 3, 3)
    assert taken(monkeypatch, x, weight)
    assert not taken(monkeypatch, x.double(), weight.double())  # oneDNN has no float64
    assert not taken(monkeypatch, random(2, 8, 10, 16, 16), weight)  # goes to oneDNN as it is
    assert not taken(monkeypatch, random(1, 8, 10, 260, 4), weight)  # so does a large one: 8 x 10 x 260 > 20480
    assert not taken(monkeypatch, random(1, 2, 4, 4, 4), random(2, 2, 3, 3, 3))  # not worth it
    assert not taken(monkeypatch, x, weight, padding=(1, 1, 1))  # no dim without padding to cut
    assert not taken(monkeypatch, x, random(8, 4, 3, 3, 3), groups=2)
    assert not taken(monkeypatch, x, random(64, 8, 1, 1, 1), padding=(0, 0, 0))  # a matrix product
