"""Compare a captured graph with the module it came from: loss, every gradient, every buffer after one step."""

from collections import Counter

import torch
from shared_captures import of_these_rows as capture

from autopar.capture import Captured
from autopar.ops.interpreter import bind, run


def state_of(module, captured):
    """Tensors of the graph's parameters, buffers and constants by user name."""
    own = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    return {item.name: own.get(item.name, captured.constants.get(item.name)) for item in captured.graph.parameters}


def loss_of_module(module, inputs, pick=None):
    result = module(**inputs)
    if pick is not None:
        return pick(result)
    return result if isinstance(result, torch.Tensor) else result["loss"]


def assert_same_step(make, inputs, pick=None, loss=None) -> Captured:
    """Capture `make` without memory and run one real module both ways in float64."""
    captured = capture(lambda: make().double(), inputs, name="model", loss=loss)
    torch.manual_seed(0)
    module = make().double()
    state = {key: value.detach().clone() for key, value in state_of(module, captured).items()}
    trained = [item for item in captured.graph.parameters if item.kind == "parameter"]
    leaves = [state[item.name].requires_grad_() for item in trained]
    env = run(captured.graph.nodes, bind(captured.graph, inputs, state))
    found = torch.autograd.grad(env[captured.graph.loss], leaves, allow_unused=True)

    expected = loss_of_module(module, inputs, pick)
    expected.backward()
    torch.testing.assert_close(env[captured.graph.loss], expected, rtol=1e-12, atol=1e-12)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for item, gradient in zip(trained, found, strict=True):
        wanted = parameters[item.name].grad
        assert (gradient is None) == (wanted is None), item.name
        if wanted is not None:
            torch.testing.assert_close(gradient, wanted, rtol=1e-11, atol=1e-12)
    after = dict(module.named_buffers(remove_duplicate=False))
    for buffer, value in captured.graph.updates:
        torch.testing.assert_close(env[value].detach(), after[buffer], rtol=1e-12, atol=1e-12)
    changed = {name for name, tensor in after.items() if name in state and not torch.equal(tensor, state[name])}
    assert changed <= {buffer for buffer, _ in captured.graph.updates}
    return captured


def targets(captured):
    return Counter(node.target for node in captured.graph.nodes)


def first_batch(file, **sizes):
    """The first real batch of an example at other sizes, floats in float64."""
    batch = next(file.batches(**sizes))
    return {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
