"""A small model of every model type of transformers: its configuration shrunk by the names of its fields, inputs by its task."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.compatibility.family_subject import (
    ROWS,
    Inputs,
    OwnLoss,
    Subject,
    first_that_runs,
    torchvision_models,
    without_dropout,
)

SIZES: dict[str, Any] = {  # what fields of configurations become, where a configuration has them
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "embedding_size", "word_embed_proj_dim"), 32
    ),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_decoder_layers", "num_encoder_layers", "num_key_value_heads", "num_experts_per_tok"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "num_local_experts", "num_experts"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "n_routed_experts", "conv_kernel"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff"), 64),
    **dict.fromkeys(("hidden_dim", "ffn_hidden_size", "max_position_embeddings", "n_positions", "max_length"), 64),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("mamba_n_heads", "linear_num_key_heads", "linear_num_value_heads"), 8),
    **dict.fromkeys(
        ("d_kv", "head_dim", "patch_size", "sliding_window", "state_size", "mamba_d_state", "rotary_dim"), 8
    ),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("n_group", "topk_group", "bos_token_id", "first_k_dense_replace"), 1),
    **dict.fromkeys(("pad_token_id", "decoder_start_token_id"), 0),
    **dict.fromkeys(("d_latents", "num_latents"), 32),
    **{"axial_pos_embds": False, "num_self_attends_per_block": 2, "hidden_size_per_layer_input": 8},
    **dict.fromkeys(("vocab_size_per_layer_input", "entity_vocab_size", "encoder_hash_byte_group_vocab"), 200),
    **{"vocab_size": 200, "image_size": 32, "eos_token_id": 2, "num_labels": 3, "use_cache": False},
}
DROPPING = ("drop", "mask_time_prob", "mask_feature_prob")
TASKS = {  # by task the table of models in transformers, in the order in which a type's task is chosen
    "causal": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "seq2seq": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "masked": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "image": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "text": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "speech": "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    "audio": "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
    "sound": "MODEL_FOR_CTC_MAPPING_NAMES",
    "video": "MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES",
    "segments": "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES",
    "depth": "MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES",
}


def transformers_families() -> dict[str, Callable[[], Subject]]:
    """By type of model the class of its first task that trains with labels."""
    torchvision_models()  # some of transformers' models import it
    from transformers.models.auto import modeling_auto

    classes: dict[str, dict[str, str]] = {}
    for task, table in TASKS.items():
        for kind, cls in getattr(modeling_auto, table).items():
            classes.setdefault(kind, {})[task] = cls[0] if isinstance(cls, list | tuple) else cls
    return {kind: partial(_transformer, kind, tasks) for kind, tasks in sorted(classes.items())}


def _transformer(kind: str, tasks: Mapping[str, str]) -> Subject:
    def trials() -> Iterator[tuple[Callable[[], nn.Module], Inputs]]:
        for task, cls in tasks.items():
            for whole in _configurations(kind):
                words = whole.get_text_config()  # which classes of words alone take
                for config in (whole,) if words is whole else (whole, words):
                    for inputs in _batches(config, task):
                        yield partial(_own_loss, cls, config), inputs

    return first_that_runs(trials())


def _own_loss(cls: str, config: Any) -> nn.Module:  # noqa: ANN401 (a configuration)
    import transformers

    return OwnLoss(without_dropout(getattr(transformers, cls)(copy.deepcopy(config))))


def _configurations(kind: str) -> Iterator[Any]:
    """The type's configuration, ever less shrunk; each is tried."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    for times in (1, 2):  # layers of one kind may share parameters
        for names in (frozenset[str](), FEWER, WIDTHS, None):
            for heads in HEADS:
                yield _small(CONFIG_MAPPING[kind], names, heads, times)
    yield _consistent(CONFIG_MAPPING[kind]())
    yield _consistent(_halved(CONFIG_MAPPING[kind]()))


def _small(make: Callable[..., Any], kept: frozenset[str] | None, heads: Mapping[str, int], times: int) -> Any:  # noqa: ANN401
    """A configuration with small numbers in its fields but those `kept`, None: in a few; in those that it holds as well.

    It has so many layers of each kind.
    """
    base = make()
    fields = {name: value for name, value in (SIZES | heads).items() if _has(base, name)}
    fields |= {name: 0.0 for name, value in vars(base).items() if isinstance(value, float) and _drops(name)}
    for name, small in (("depths", lambda n: [1] * n), ("hidden_sizes", lambda n: [16 * (i + 1) for i in range(n)])):
        if isinstance(getattr(base, name, None), list | tuple):
            fields[name] = small(len(getattr(base, name)))
    fields |= _fewer_layers(base, times)
    names = fields.keys() & FEWEST if kept is None else fields.keys() - kept
    fields = {name: value for name, value in fields.items() if name in names}
    for name, value in vars(base).items():
        if hasattr(value, "to_dict"):
            fields[name] = _small(type(value), kept, heads, times)
            for other, default in vars(value).items():  # what this one has that its class does not give
                if not _has(fields[name], other):
                    setattr(fields[name], other, default)
    return _consistent(make(**_taken(make, fields)))


def _fewer_layers(base: Any, times: int) -> dict[str, Any]:  # noqa: ANN401 (a configuration)
    """Where a configuration says of every layer of what kind it is: its first layers, up to those that have each kind so often."""
    layers = getattr(base, "num_hidden_layers", None)
    kinds = {
        name: value
        for name, value in vars(base).items()
        if isinstance(value, list) and len(value) == layers and all(isinstance(one, str) for one in value)
    }
    last = [
        [i for i, kind in enumerate(value) if kind == wanted][:times][-1]
        for value in kinds.values()
        for wanted in {*value}
    ]
    count = max(2, *(i + 1 for i in last)) if last else 2
    return {"num_hidden_layers": count, **{name: value[:count] for name, value in kinds.items()}} if kinds else {}


def _halved(config: Any) -> Any:  # noqa: ANN401 (a configuration)
    """The configuration with two layers, and every number of more than 64 halved until it is no more, so that quotients stay."""
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_dict"):
            _halved(value)
        elif name in FEWEST and name != "vocab_size":
            setattr(config, name, SIZES[name])
        elif isinstance(value, float) and _drops(name):
            setattr(config, name, 0.0)
        elif name.endswith("token_id") or isinstance(value, bool):
            setattr(config, name, 2 if isinstance(value, int) and value > 2 else value)
        elif isinstance(value, int):
            setattr(config, name, _few(value))
        elif isinstance(value, list | tuple) and value and all(type(one) is int for one in value):
            setattr(config, name, type(value)(map(_few, value)))
    return config


def _few(number: int) -> int:
    return number if number <= 64 else _few(number // 2)


FEWER = frozenset({"head_dim", "embed_dim", "dim", "hidden_dim"})
WIDTHS = FEWER | {"num_heads", "n_heads", "hidden_size", "d_model", "intermediate_size"}
FEWEST = frozenset({"num_hidden_layers", "n_layer", "num_layers", "n_layers", "vocab_size", "use_cache"})
HEADS: tuple[dict[str, int], ...] = (  # beside SIZES
    {},
    {"num_key_value_heads": 4},  # of the latent attention, as many as heads
    {"num_heads": 8, "n_heads": 8},  # of state spaces, which are twice as wide
)


def _taken(make: Callable[..., Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a configuration takes: some refuse those that follow from others, or that do not suit others."""
    taken = dict(fields)
    with contextlib.suppress(Exception):  # a library's own check, as below
        make(**taken)
        return taken
    taken = {}
    for name, value in fields.items():
        with contextlib.suppress(Exception):
            make(**taken, **{name: value})
            taken[name] = value
    return taken


def _has(config: Any, name: str) -> bool:  # noqa: ANN401 (a configuration)
    """Whether a configuration has a field, one for all layers."""
    try:
        return hasattr(config, name)
    except Exception:  # a library's own: it differs between layers
        return False


def _drops(name: str) -> bool:
    return any(word in name for word in DROPPING)


def _consistent(config: Any) -> Any:  # noqa: ANN401 (a configuration)
    """The configuration with as many entries in its list of layers as it has layers, and with the words that begin and pad."""
    for name in ("pad_token_id", "decoder_start_token_id"):  # which a user gives who trains from nothing
        if getattr(config, name, None) is None:
            setattr(config, name, 0)
    layers = getattr(config, "num_hidden_layers", None)
    if vars(config).get("layer_types") and isinstance(layers, int):
        config.layer_types = list(config.layer_types)[:layers]
    return config


def _batches(config: Any, task: str) -> list[dict[str, Tensor]]:  # noqa: ANN401 (a configuration)
    """Inputs that models of a task take, in the few ways in which they are called."""
    size, channels, words = (_field(config, *names) for names in (("image_size",), ("num_channels",), ("vocab_size",)))
    size, channels, words = size or 64, channels or 3, min(words or 200, 200)
    bins = _field(config, "num_mel_bins", "input_feat_per_channel") or 80
    kinds = torch.randint(0, 2, (ROWS,))
    ids = torch.randint(3, words, (ROWS, 12))
    answer = torch.randint(3, words, (ROWS, 8))
    wave, image = torch.randn(ROWS, 4000), torch.randn(ROWS, channels, size, size)
    spectra = {"time first": torch.randn(ROWS, 400, bins), "bins first": torch.randn(ROWS, bins, 128)}
    frames = torch.randn(ROWS, _field(config, "max_length") or 128, bins)
    video = torch.randn(ROWS, _field(config, "num_frames") or 8, channels, size, size)
    batches: dict[str, list[dict[str, Tensor]]] = {
        "causal": [{"input_ids": ids, "labels": ids.clone()}],
        "masked": [{"input_ids": ids, "labels": ids.clone()}, {"pixel_values": image}],
        "seq2seq": [
            {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": tensor}
            for tensor in (answer, ids.clone())
        ],
        "text": [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": kinds}],
        "image": [{"pixel_values": image, "labels": kinds}],
        "video": [{name: video, "labels": kinds} for name in ("pixel_values", "pixel_values_videos")],
        "segments": [{"pixel_values": image, "labels": torch.randint(0, 2, (ROWS, size, size))}],
        "depth": [{"pixel_values": image, "labels": torch.rand(ROWS, size, size)}],
        "speech": [{"input_features": tensor, "labels": answer} for tensor in spectra.values()]
        + [{"input_values": wave, "labels": answer}],
        "audio": [{"input_values": wave, "labels": kinds}, {"input_values": frames, "labels": kinds}],
        "sound": [{"input_values": wave, "labels": answer}]
        + [{"input_features": tensor, "labels": answer} for tensor in spectra.values()],
    }
    return batches[task]


def _field(config: Any, *names: str) -> int:  # noqa: ANN401 (a configuration)
    """The first of these fields that a configuration, or one that it holds, has; 0 where there is none."""
    for held in (config, *(inner for inner in vars(config).values() if hasattr(inner, "to_dict"))):
        for name in names:
            value = getattr(held, name, None)
            value = value[0] if isinstance(value, list | tuple) and value else value
            if isinstance(value, int):
                return value
    return 0
