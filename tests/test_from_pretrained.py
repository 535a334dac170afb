"""A folder of `save_pretrained` is a model: built without memory, its weights read by slices, and a model file written for it."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import autopar
from autopar.cli.main import main
from autopar.errors import CheckpointError, ConfigError
from autopar.hugging_face.model_text import ExampleSizes, written
from autopar.ir.layout import Replicate
from autopar.model_file import load
from autopar.runtime.session.function_values import function_values

SMALL = {"vocab_size": 48, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
MODELS = {
    "llama": ("LlamaForCausalLM", SMALL | {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "gpt2": ("GPT2Model", {"vocab_size": 48, "n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2}),
    "bert": ("BertForSequenceClassification", SMALL | {"max_position_embeddings": 8}),
}
MORE = {
    "vit": ("ViTForImageClassification", {**SMALL, "image_size": 8, "patch_size": 4}),
    "mixtral": ("MixtralForCausalLM", SMALL | {"num_key_value_heads": 1, "num_local_experts": 2}),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Folders as `save_pretrained` writes them, one of each model."""
    return saved(MODELS, tmp_path_factory.mktemp("folders"))


def saved(models, folder):
    torch.manual_seed(0)
    for name, (architecture, settings) in models.items():
        kind = getattr(transformers, architecture)
        kind(kind.config_class(**settings)).save_pretrained(folder / name)
    return folder


def values(model, seed=0):
    """What a run begins with, whole."""
    tensors = model.naming().tensors
    found = dict(function_values(model, seed, set(tensors)))
    return {
        name: one if isinstance(one, torch.Tensor) else one.part([Replicate()], [None]) for name, one in found.items()
    }


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_values_are_those_that_transformers_loads(root, name):
    """Tied under both names; of a base model under its own names; with buffers that no file has left to the program."""
    head = {"architecture": "GPT2LMHeadModel"} if name == "gpt2" else {}
    model = autopar.from_pretrained(root / name, **head)
    own, state = values(model), model.whole().state_dict()
    assert own.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(own[key], value), key
    assert model().training
    assert getattr(model().config, "use_cache", False) is False
    assert next(autopar.from_pretrained(root / name, dtype="bfloat16", **head)().parameters()).dtype == torch.bfloat16


def test_what_weights_may_lack_is_initialised_by_the_seed_and_all_else_is_listed(root):
    head = {"architecture": "LlamaForSequenceClassification"}
    with pytest.raises(CheckpointError) as raised:
        values(autopar.from_pretrained(root / "llama", **head))
    assert "  - score.weight is missing" in str(raised.value)
    model = autopar.from_pretrained(root / "llama", allow_missing=["score.*"], **head)
    one, two, again = (values(model, seed) for seed in (1, 2, 1))
    stored = load_file(root / "llama" / "model.safetensors")
    assert all(torch.equal(one[name], value) for name, value in stored.items())
    assert torch.equal(one["score.weight"], again["score.weight"])
    assert not torch.equal(one["score.weight"], two["score.weight"])


class Adapter(nn.Module):
    """Low-rank additions to a layer that stays as it is."""

    def __init__(self, base):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(2, base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, 2))

    def forward(self, x):
        return self.base(x) + x @ self.a.t() @ self.b.t()


def adapted(model):
    """Nothing is trained but adapters of the queries."""
    model.requires_grad_(False)
    for layer in model.model.layers:
        layer.self_attn.q_proj = Adapter(layer.self_attn.q_proj)
    return model


def test_an_adapted_model_has_the_weights_under_its_own_names(root):
    model = autopar.from_pretrained(root / "llama", adapt=adapted)
    own, stored = values(model, 3), load_file(root / "llama" / "model.safetensors")
    torch.manual_seed(3)
    whole = model.whole()
    assert {name for name, one in whole.named_parameters() if one.requires_grad} == {
        f"model.layers.0.self_attn.q_proj.{end}" for end in "ab"
    }
    for name, value in whole.state_dict().items():
        assert torch.equal(own[name], value), name
        read = stored.get(name.replace("q_proj.base", "q_proj").replace("lm_head", "model.embed_tokens"))
        assert read is None or torch.equal(read, value), name


def test_what_cannot_be_read_by_slices_is_refused(root, tmp_path):
    (tmp_path / "config.json").write_text((root / "llama" / "config.json").read_text())
    assert not autopar.from_pretrained(tmp_path).weights
    stored = load_file(root / "llama" / "model.safetensors")
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"] + 1
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"(lm_head|embed_tokens)\.weight differ"):
        values(autopar.from_pretrained(tmp_path))
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"pickles alone(.|\n)*  - pytorch_model\.bin"):
        autopar.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("said", "given", "problem"),
    [
        ({"architectures": ["OwnModel"]}, {}, "transformers has no OwnModel"),
        ({"architectures": None}, {}, "it names no architecture"),
        ({}, {"architecture": "LlamaForCausalLm"}, "did you mean 'LlamaForCausalLM'"),
        ({}, {"config": {"hidden_sizes": 3}}, "hidden_sizes"),
        ({}, {"dtype": "float23"}, "no dtype of torch"),
        (None, {}, "cannot be read"),
    ],
)
def test_a_folder_that_says_no_model_is_refused(root, tmp_path, said, given, problem):
    known = json.loads((root / "llama" / "config.json").read_text())
    (tmp_path / "config.json").write_text("{" if said is None else json.dumps(known | said))
    with pytest.raises(ConfigError, match=problem):
        autopar.from_pretrained(tmp_path, **given)


@pytest.mark.zoo
def test_more_models(tmp_path):
    saved(MORE, tmp_path)
    with pytest.raises(ConfigError, match=r"w1\.weight is joined with others to .*gate_up_proj"):
        values(autopar.from_pretrained(tmp_path / "mixtral"))
    test_values_are_those_that_transformers_loads(tmp_path, "vit")
    test_a_model_file_is_written_for_a_folder(tmp_path, tmp_path, "vit")


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_model_file_is_written_for_a_folder(root, tmp_path, name):
    file = load(written(root / name, tmp_path / "build", ExampleSizes(2, 4)))
    assert isinstance(file.model, autopar.hugging_face.pretrained.Pretrained)
    model, inputs = file.model(), file.example_inputs()
    assert isinstance(model, nn.Module)
    assert {len(one) for one in inputs.values()} == {2}
    assert model(**inputs).loss.dim() == 0
    written(root / name, tmp_path / "build", ExampleSizes(2, 4))
    with pytest.raises(ConfigError, match="it is there, and says something else"):
        written(root / name, tmp_path / "build", ExampleSizes(3, 4))


def test_other_models_and_options_are_refused(root, tmp_path, capsys):
    with pytest.raises(ConfigError, match="it is of GPT2Model"):
        written(root / "gpt2", tmp_path, ExampleSizes())
    assert main(["compile", str(tmp_path / "model.py"), "--grid", "2", "--batch", "3", "-o", str(tmp_path / "b")]) == 1
    assert "given with --batch" in capsys.readouterr().err
    assert main(["compile", str(tmp_path), "--grid", "2", "-o", str(tmp_path / "b")]) == 1
    assert "it is a folder without a config.json" in capsys.readouterr().err
