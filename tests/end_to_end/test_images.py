"""Where images lie channels last, filters, their gradients and their buckets do; the numbers are the model's."""

import pytest
import torch
from compiling import assert_computes_the_same, compiled, made
from compiling import run as run_program

from autopar.codegen import emit as text
from autopar.ir.plan_file import to_json
from autopar.runtime import simulate
from autopar.runtime.parameters.deferred_init import module_values
from autopar.runtime.program.plan_reader import parse_description
from autopar.runtime.session.parallel_module import Parallel

PLANS = {"batch": ("*conv*: n@axis0",), "channels": ("*conv*: k@axis0",)}


def lies(tensor):
    return tensor.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("plan", sorted(PLANS))
def test_filters_and_their_gradients_lie_channels_last(plan):
    one = compiled("conv", "2", pin=PLANS[plan])
    assert one.source.count("memory_format=torch.channels_last") == 1
    assert "Program(GRID, forward, INPUTS, PARAMETERS, filters=torch.channels_last)" in one.source
    model, inputs = made("conv")
    description = parse_description(to_json(one.plan), "plan.json")
    values = list(module_values(model))

    def rank():
        names = {"__name__": "program"}
        exec(compile(one.source, "program.py", "exec"), names)
        parallel = Parallel(names["PROGRAM"], description, values)
        optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1, momentum=0.9)
        for cuts in (None, (0.0, 0.25, 1.0), None):
            parallel.rebalance({"axis0": cuts}, optimizer)
            parallel(**inputs).backward()
            filters = [one for one in parallel.parameters() if one.dim() == 4]
            assert len(filters) == 2
            assert all(lies(one) and lies(one.grad) and one.stride() == one.grad.stride() for one in filters)
            optimizer.step()
            assert all(lies(optimizer.state[one]["momentum_buffer"]) for one in filters)
        return True

    assert simulate(2, rank) == [True, True]
    assert_computes_the_same(one, "conv")


def test_programs_without_images_have_no_order():
    one = compiled("mlp", "2")
    assert "channels_last" not in one.source
    assert one.source.endswith(text.ending("") + "\n")
    assert len(run_program(one, *made("mlp"))) == 2
