"""What a program is predicted to hold, step by step, beside what is known of every plan and of small ones exactly."""

import pytest
from compiling import QUICK, compiled_once, lowered

from autopar.codegen.memory_footprint import KINDS, footprint
from autopar.costmodel import memory
from autopar.ir.layout import Copied

FLOAT = 4


def held(one, optimizer="sgd"):
    decision, program = lowered(one)
    return footprint(one.built, decision, program, optimizer)


@pytest.mark.parametrize("grid", ["1", "2", "2x2"])
@pytest.mark.parametrize("name", ["mlp", "conv", "gpt"])
def test_every_step_is_accounted_for(name, grid):
    one = compiled_once(name, grid, QUICK)
    found = held(one, "adamw")
    assert all(0 <= item.start < item.end <= found.steps and item.nbytes >= 0 for item in found.held)
    assert {item.kind for item in found.held} <= set(KINDS)
    sizes = memory.timeline(found.held, found.steps)
    for at in range(found.steps):
        assert sum(found.parts(at).values()) == sizes[at]
        assert found.where(at)
    assert found.peak == max(sizes) == sizes[found.at]
    predicted = one.plan.predicted
    assert predicted.bytes == found.peak
    assert predicted.peak_during == found.where(found.at)


@pytest.mark.parametrize("name", ["mlp", "gpt"])
def test_nothing_but_parameters_and_their_state_is_left_over(name):
    """At the end there are parameters, inputs, state, gradients, and what the optimizer takes for its step."""
    one = compiled_once(name, "2", QUICK)
    found = held(one, "adamw")
    last = found.parts(found.steps - 1)
    graph, decision = one.built.graph, lowered(one)[0]
    sizes = [
        memory.parameter_parts(
            graph.values[item.value], item.kind, decision.storage[item.value], "adamw", one.built.grid
        )
        for item in graph.parameters
    ]
    assert last["parameters"] == sum(size for size, _, _ in sizes)
    assert last["gradients"] == sum(size for _, size, _ in sizes)
    assert last["optimizer"] == sum(size for _, _, size in sizes)
    assert last["transients"] == 2 * max(size for _, size, _ in sizes)
    assert last["activations"] == last["buffers"] == 0


def test_the_steps_of_a_perceptron():
    """y = fc2(relu(fc1(x))), the mean square of y - t, on one rank: all sizes by hand."""
    found = held(compiled_once("mlp", "1"))
    graph = compiled_once("mlp", "1").graph
    rows, inputs = graph.values[graph.inputs[0].value].shape
    hidden, outputs = 8, 4
    weights = FLOAT * (inputs * hidden + hidden + hidden * outputs + outputs)
    standing = weights + FLOAT * rows * (inputs + outputs)
    x1, y = FLOAT * rows * hidden, FLOAT * rows * outputs
    assert found.names[:3] == ("fc1", "relu", "fc2")
    sizes = [found.parts(at) for at in range(found.steps)]
    assert sum(sizes[0].values()) == standing + x1  # the result of fc1
    assert sum(sizes[1].values()) == standing + 2 * x1  # and relu's, which relu and fc2 keep
    assert sum(sizes[2].values()) - sizes[2]["activations"] - sizes[2]["transients"] == standing
    assert sizes[2]["activations"] >= x1 + y
    assert sizes[found.steps - 1]["gradients"] == weights
    assert sizes[0]["gradients"] == 0  # no ranks to sum with: they come to exist in backward


def test_summed_gradients_lie_in_buckets_all_the_time():
    one = compiled_once("mlp", "2", QUICK, pin=("fc*: b0@axis0",))
    found = held(one)
    decision = lowered(one)[0]
    copied = [item for item in one.graph.parameters if decision.storage[item.value] == (Copied(),)]
    assert copied
    assert found.parts(0)["gradients"] == sum(one.graph.values[item.value].nbytes for item in copied)
