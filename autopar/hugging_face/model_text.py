"""The ``model.py`` that ``autopar compile FOLDER`` writes beside its program for a folder of ``save_pretrained``.

It is to be changed freely. What a model takes beside its weights is told by what its class is for, the end of its name.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from string import Template

from autopar.errors import ConfigError, refusal
from autopar.hugging_face.pretrained import Pretrained, from_pretrained

FILE = "model.py"
_TOKENS = 128
_CALL = "torch.randint({high}, ({shape}), generator=draw)"
_INPUTS = {
    ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration"): {"input_ids": "ids", "labels": "ids"},
    ("ForTokenClassification",): {"input_ids": "ids", "labels": "classes of tokens"},
    ("ForSequenceClassification",): {"input_ids": "ids", "labels": "classes"},
    ("ForQuestionAnswering",): {"input_ids": "ids", "start_positions": "places", "end_positions": "places"},
    ("ForImageClassification",): {"pixel_values": "pixels", "labels": "classes"},
}
_TEXT = Template('''"""$architecture of $shown, as `autopar compile` has written it. Change it freely, and compile it again."""

from pathlib import Path

import torch

import autopar

$sizes

model = autopar.from_pretrained(Path(__file__).parent / $folder)


def example_inputs():
    """Inputs of the sizes to compile for. A run trains on them as long as there is no batches()."""
    draw = torch.Generator().manual_seed(0)
    return {
$inputs
    }


# def batches():
#     """Your own data: dicts like that of example_inputs."""
#     yield ...


# def optimizer(parameters):
#     return torch.optim.AdamW(parameters, lr=1e-5)
''')


@dataclass(frozen=True, slots=True)
class ExampleSizes:
    """Rows of a batch, and tokens of a row; None: 128, or as many as the model has positions for."""

    batch: int = 8
    tokens: int | None = None


def written(folder: Path, output: Path, sizes: ExampleSizes) -> Path:
    """Write the model file of `folder` into `output`; returns its path.

    Raises ConfigError where the model is of a kind whose inputs are not known, or another file of that name is there.
    """
    file = output / FILE
    text = _text(from_pretrained(folder), output, sizes)
    if file.exists() and file.read_text(encoding="utf-8") != text:
        rule = f"a folder of Hugging Face is compiled by a {FILE} that is written beside the program, and never over another one"
        fix = f"autopar compile {file}, if it is to count as it stands; another folder with -o, if not"
        raise ConfigError(refusal(str(file), "it is there, and says something else", rule, fix=fix))
    output.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def _text(model: Pretrained, output: Path, sizes: ExampleSizes) -> str:
    asked = next((made for ends, made in _INPUTS.items() if model.architecture.endswith(ends)), None)
    config = model.config()
    if asked is None or ("pixels" in asked.values() and not isinstance(getattr(config, "image_size", None), int)):
        kinds = ", ".join(end for ends in _INPUTS for end in ends)
        fix = 'a model.py with `model = autopar.from_pretrained("folder")` and example_inputs of your own'
        raise ConfigError(
            refusal(
                str(model.folder), f"it is of {model.architecture}", f"inputs are known of classes *{kinds}", fix=fix
            )
        )
    most = getattr(config, "max_position_embeddings", None) or _TOKENS
    tokens = sizes.tokens or min(_TOKENS, most)
    pixels = "pixels" in asked.values()
    values = {
        "ids": _CALL.format(high=getattr(config, "vocab_size", 0), shape="BATCH, TOKENS"),
        "classes": _CALL.format(high=getattr(config, "num_labels", 2), shape="BATCH,"),
        "classes of tokens": _CALL.format(high=getattr(config, "num_labels", 2), shape="BATCH, TOKENS"),
        "places": _CALL.format(high="TOKENS", shape="BATCH,"),
        "pixels": f"torch.rand(BATCH, {getattr(config, 'num_channels', 3)}, SIZE, SIZE, generator=draw)",
    }
    extent = f"SIZE = {sizes.batch}, {config.image_size}" if pixels else f"TOKENS = {sizes.batch}, {tokens}"
    relative = Path(os.path.relpath(model.folder, output.resolve())).as_posix()
    return _TEXT.substitute(
        architecture=model.architecture,
        shown=relative,
        sizes=f"BATCH, {extent}",
        folder=json.dumps(relative),
        inputs="\n".join(f'        "{name}": {values[kind]},' for name, kind in asked.items()),
    )
