"""Look-up in a table whose rows are split: addends of the result, and the gradient of a rank's own rows."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.runtime import Grid, all_sum, embedding, simulate


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 9), st.integers(0, 4), st.sampled_from([(), (5,), (2, 3), (0,)]), st.booleans(), st.integers(1, 4)
)
def test_the_addends_are_torch_s_result(rows, features, shape, padded, ranks):
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(rows, features, generator=generator, dtype=torch.float64)
    indices = torch.randint(rows, shape, generator=generator)
    padding = rows // 2 if padded else None
    whole = table.clone().requires_grad_()
    wanted = F.embedding(indices, whole, padding)
    cotangent = torch.randn(wanted.shape, generator=generator, dtype=torch.float64)
    wanted.backward(cotangent)

    def rank():
        axis = Grid(str(ranks)).axes[0]
        bounds = axis.bounds(rows)
        local = table[bounds[axis.index] : bounds[axis.index + 1]].clone().requires_grad_()
        found = all_sum(embedding(indices, local, padding, (axis, rows)), axis)
        found.backward(cotangent)
        return found.detach(), local.grad

    results = simulate(ranks, rank)
    for found, _ in results:
        assert torch.equal(found, wanted.detach())
    torch.testing.assert_close(torch.cat([grad for _, grad in results]), whole.grad, rtol=0, atol=1e-14)


def test_rows_that_are_cut_in_blocks():
    table = torch.arange(8.0).view(8, 1)

    def rank():
        axis = Grid("2").axes[0]
        local = table.view(2, 2, 2)[:, axis.index].reshape(4, 1)
        return all_sum(embedding(torch.arange(8), local, over=(axis, 8, 2, 2)), axis)

    for found in simulate(2, rank):
        assert torch.equal(found, table)
