"""A folder of `save_pretrained` goes in, is trained on a grid, and a folder comes out that `from_pretrained` reads.

In float64 what comes out is what the sequential model becomes. In float32 it is so but for the biases of GPT-2's keys: a softmax is
the same whatever is added to all of its inputs, so these have no gradient but rounding, which AdamW divides by its own size.
"""

import pytest
import torch
import transformers
from safetensors import safe_open

import autopar
from autopar.runtime import simulate
from autopar.runtime.checkpoint.export import ExportOptions, export

pytestmark = pytest.mark.zoo
WORDS, TOKENS, ROWS, STEPS, WIDTH = 96, 12, 4, 10, 32
QUIET = {
    "GPT2LMHeadModel": dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
    "LlamaForCausalLM": {"attention_dropout": 0.0},
}
SETTINGS = {
    "GPT2LMHeadModel": {"n_positions": 16, "n_embd": WIDTH, "n_layer": 2, "n_head": 4},
    "LlamaForCausalLM": {
        "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
}  # fmt: skip


class Low(torch.nn.Module):
    """A layer, linear or GPT-2's of the same kind, with low-rank additions."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.lora_A = torch.nn.Linear(WIDTH, 4, bias=False, dtype=base.weight.dtype)
        self.lora_B = torch.nn.Linear(4, max(base.weight.shape), bias=False, dtype=base.weight.dtype)

    def forward(self, x):
        return self.base(x) + self.lora_B(self.lora_A(x))


def adapted(model):
    model.requires_grad_(False)
    for part in list(model.modules()):
        for name in ("q_proj", "c_attn"):
            if hasattr(part, name):
                setattr(part, name, Low(getattr(part, name)))
    return model


def batches():
    draw = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        ids = torch.randint(WORDS, (ROWS, TOKENS), generator=draw)
        yield {"input_ids": ids, "labels": ids}


def trained(model):
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-3)
    for batch in batches():
        optimizer.zero_grad()
        output = model(**batch)
        (output if isinstance(output, torch.Tensor) else output.loss).backward()
        optimizer.step()
    return optimizer


def saved(folder, architecture):
    torch.manual_seed(0)
    kind = getattr(transformers, architecture)
    kind(kind.config_class(vocab_size=WORDS, **SETTINGS[architecture])).save_pretrained(folder)
    return folder


def through(folder, model, grid, size):
    """Train on a grid and export; how many tensors the optimizer had a state of, and what was written."""
    autopar.compile(model, next(batches()), grid=grid).save(folder / "build")

    def rank():
        parallel = autopar.load(folder / "build").parallel(model=model)
        optimizer = trained(parallel)
        parallel.save(folder / "saved", optimizer, step=STEPS)
        return len(optimizer.state_dict()["state"])

    states = simulate(size, rank)[0]
    return states, export(folder / "saved", folder / "out", ExportOptions(like=folder / "in"))


def difference(state, other):
    return {name: (value - other[name]).abs().max().item() for name, value in state.items()}


@pytest.mark.parametrize("architecture", list(SETTINGS))
@pytest.mark.parametrize(("grid", "size"), [("2", 2), ("2x2", 4)])
def test_full_training_in_and_out(tmp_path, architecture, grid, size):
    saved(tmp_path / "in", architecture)
    model = autopar.from_pretrained(tmp_path / "in", dtype="float64", config=QUIET[architecture])
    _, done = through(tmp_path, model, grid, size)
    assert done.notes == ()
    whole = model.whole()
    trained(whole)
    back, told = type(whole).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(told.values())
    assert back.dtype == torch.float64
    assert max(difference(whole.state_dict(), back.state_dict()).values()) <= 1e-6
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118 (the handle is not iterable)


def test_in_float32_only_what_has_no_gradient_differs_by_more_than_rounding(tmp_path):
    saved(tmp_path / "in", "GPT2LMHeadModel")
    model = autopar.from_pretrained(tmp_path / "in", config=QUIET["GPT2LMHeadModel"])
    through(tmp_path, model, "2", 2)
    whole = model.whole()
    trained(whole)
    back = type(whole).from_pretrained(tmp_path / "out").state_dict()
    for name, value in whole.state_dict().items():
        if name.endswith("c_attn.bias"):
            keys = slice(WIDTH, 2 * WIDTH)
            gradient = whole.get_parameter(name).grad
            assert gradient[keys].abs().max() < 1e-3 * gradient.abs().max()
            value, back[name] = value.clone(), back[name].clone()
            value[keys] = back[name][keys] = 0
        torch.testing.assert_close(back[name], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", list(SETTINGS))
def test_adapters_over_a_frozen_folder(tmp_path, architecture):
    saved(tmp_path / "in", architecture)
    model = autopar.from_pretrained(tmp_path / "in", dtype="float64", config=QUIET[architecture], adapt=adapted)
    torch.manual_seed(0)
    whole = model.whole()
    names = {name for name, one in whole.named_parameters() if one.requires_grad}
    states, done = through(tmp_path, model, "2", 2)
    assert states == len(names) == 4
    trained(whole)
    assert any("lora_A" in line for line in done.notes)
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (the handle is not iterable)
    assert "lm_head.weight" not in state
    before = model.whole().state_dict()
    for name, value in state.items():
        assert (value - whole.state_dict()[name]).abs().max() <= 1e-6, name
        assert name in names or torch.equal(value, before[name]), name


def test_adapters_of_peft(tmp_path):
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = autopar.from_pretrained(
        saved(tmp_path / "base", "LlamaForCausalLM"),
        dtype="float64",
        config=QUIET["LlamaForCausalLM"],
        adapt=lambda model: peft.get_peft_model(model, settings),
    )
    torch.manual_seed(0)
    whole = model.whole()
    whole.save_pretrained(tmp_path / "in")
    states, done = through(tmp_path, model, "2", 2)
    assert (states, done.files) == (8, ("adapter_model.safetensors",))
    trained(whole)
    base = autopar.from_pretrained(tmp_path / "base", dtype="float64").whole()
    back = peft.PeftModel.from_pretrained(base, tmp_path / "out").state_dict()
    assert max(difference(whole.state_dict(), back).values()) <= 1e-6
