"""`as_strided` and views of what was written: elements are those of the model's memory, however the program's tensors lie."""

import pytest
import torch
from capture_refused import refused
from compiling import QUICK
from shared_captures import these_rows
from torch import nn
from trained import Together, assert_trains_the_same

import autopar


class Net(nn.Module):
    """A Linear whose result is read by its places in memory."""

    def __init__(self, read):
        super().__init__()
        self.a, self.read = nn.Linear(6, 8), read

    def forward(self, x):
        y = self.read(self.a(x))
        return (y * torch.arange(y.numel(), dtype=y.dtype).view(y.shape)).square().mean()


def copied_transpose(h):
    return h.t().contiguous().as_strided((7, 2, len(h)), (len(h), len(h), 1))


def with_an_offset(h):
    return h[2:].as_strided((3, 4), (2, 3), 8 * 2 + 5)


def permuted(h):
    return h.view(len(h), 2, 4).permute(2, 0, 1).as_strided((2, len(h), 3), (1, 8, 2))


def one_number_often(h):
    return h.as_strided((3, 5), (0, 0), 9)


def copied(h):
    return torch.as_strided_copy(h.t().contiguous(), (4, 3), (2, 2))


def scattered(h):
    return torch.as_strided_scatter(h.t().contiguous(), h[0, :4].view(2, 2).tanh(), (2, 2), (5, 1), 3)


def written_through(h):
    y = h.t().contiguous()
    y.as_strided((2, 3), (4, 1), 1).mul_(3.0)
    return y


def grown(h):
    return h.detach().clone().resize_(20, 8) * h.mean()


def viewed_after_a_write(h):
    y = 2 * h[:8].view(2, 4, 8).transpose(0, 1)
    y[:, 1:] = h[:4].unsqueeze(1)
    return y.softmax(-1).transpose(0, 1).reshape(4, 4, 4)


def resized(h):
    y = (2 * h.detach()).t()
    z = y.clone(memory_format=torch.contiguous_format)
    z.resize_(3, 5)
    return h[:3, :5] * (z.sin() + y.clone().resize_(()).exp() + z.resize_as_(h[:2, 1:6].detach()).mul_(3)[1])


def masked_by_many_constants(h):
    mask = torch.ones(len(h), 8, 64).cumsum(-1) > 2
    return h * 2 if mask.flatten(1).any().item() else h


READS = (
    copied_transpose,
    with_an_offset,
    permuted,
    one_number_often,
    copied,
    scattered,
    viewed_after_a_write,
    resized,
    masked_by_many_constants,
)


def test_elements_are_those_of_the_models_memory():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Together({read.__name__: Net(read) for read in READS})
        x = torch.randn(16, 6)
    with these_rows():
        one = autopar.compile(model, (x,), grid="2x2", machine=QUICK)
    assert_trains_the_same(one, model, {"x": x})


@pytest.mark.parametrize(
    "read",
    [
        lambda h: h[:, ::2].as_strided((3, 2), (2, 1)),
        lambda h: h[:1].expand(4, 8).as_strided((3, 2), (2, 1)),
        lambda h: h[:4].as_strided((4, 9), (8, 1)),
        lambda h: h[4:].as_strided((4, 8), (8, 1), 0),
    ],
)
def test_gaps_and_what_lies_beyond_are_refused_at_their_line(read):
    text = refused(Net(read), (torch.randn(16, 6),))
    assert text.startswith("test_memory_views.py:")
    assert "as_strided of a tensor of shape" in text
    assert ".unfold(" in text


def test_memory_that_grows_is_refused_at_its_line():
    text = refused(Net(grown), (torch.randn(16, 6),))
    assert text.startswith("test_memory_views.py:")
    assert "resize_ of 128 elements to 160" in text


def test_writing_through_it_is_refused_at_its_line():
    text = refused(Net(written_through), (torch.randn(16, 6),))
    assert text.startswith("test_memory_views.py:")
    assert "a tensor is written through as_strided" in text


@pytest.mark.parametrize("read", [scattered, resized])
def test_alone(read):
    """A trace that writes nothing is written out in another way (`autopar.capture.exporting.functionalization`)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = Net(read), torch.randn(16, 6)
    with these_rows():
        one = autopar.compile(model, (x,), grid="2", machine=QUICK)
    assert_trains_the_same(one, model, {"x": x})


def test_any_number_of_rows():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Together({read.__name__: Net(read) for read in (copied_transpose, permuted)})
    one = autopar.compile(model, (torch.randn(6, 6),), grid="2", machine=QUICK)
    assert_trains_the_same(one, model, {"x": torch.randn(22, 6)})
