"""``model = autopar.from_pretrained("folder")``: a model function that knows where its first values are.

Called, it builds the model that ``config.json`` says, without weights, so that capture can call it on the meta device; in a run
every rank reads its own slices of the weights, and none holds the whole model. Nothing is fetched, and no code of a folder is run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autopar.errors import ConfigError, fix_for, nearest, refusal

CONFIG = "config.json"
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_PICKLES = ("pytorch_model*.bin",)


@dataclass(frozen=True, slots=True)
class Naming:
    """The tensors of a model before it was adapted, on the meta device, and how weights are called.

    tensors  by its own names, each with the names that it has in the adapted model, none where that lacks it
    change   from a name in the weights to its own, None for what transformers leaves as well. Raises ConfigError where weights
             are stored in another form
    """

    tensors: Mapping[str, tuple[Tensor, tuple[str, ...]]]
    change: Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A function that returns the model of a folder.

    folder            where config.json is, and the weights
    architecture      the class in transformers, ``"LlamaForCausalLM"``
    dtype             of the parameters, ``"float32"``; None: as the configuration says
    changes           entries of the configuration that are others
    weights           whether the folder has any; without, values are drawn as the class initialises them
    allow_missing     patterns of parameters that the weights may lack, which are initialised, as of a new head
    allow_unexpected  patterns of weights that are left
    adapt             what becomes of the model: a function of it, as for adapters, that keeps its parameters
    """

    folder: Path
    architecture: str
    dtype: str | None = None
    changes: Mapping[str, object] = field(default_factory=dict)
    weights: bool = True
    allow_missing: tuple[str, ...] = ()
    allow_unexpected: tuple[str, ...] = ()
    adapt: Callable[[nn.Module], nn.Module] | None = None

    @property
    def __name__(self) -> str:
        """What the model is called."""
        return self.architecture

    def __call__(self) -> nn.Module:
        """The model as its class initialises it, in training mode, adapted."""
        return self._adapted(self._base())

    def whole(self) -> nn.Module:
        """The model with its weights, as transformers loads them; what these lack is initialised as by calling this."""
        base = self._base()
        own = dict(base.state_dict(keep_vars=True))
        made = self._adapted(base)
        if self.weights:
            loaded, told = self._class.from_pretrained(
                self.folder, config=self.config(), local_files_only=True, output_loading_info=True, **self._dtype()
            )
            with torch.no_grad():
                for name, value in loaded.state_dict().items():
                    if name not in told["missing_keys"]:
                        own[name].copy_(value)
        return made

    def naming(self) -> Naming:
        """Which tensor of the model a name in the weights is. Only asked where there are weights."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming, rename_source_key

        with torch.device("meta"):
            base = self._base()
            tensors = dict(base.state_dict(keep_vars=True))
            steps = get_model_conversion_mapping(base)
            left = getattr(base, "_keys_to_ignore_on_load_unexpected", None) or ()
            prefix = base.base_model_prefix
            made = self._adapted(base).state_dict(keep_vars=True)
        renamings = [one for one in steps if isinstance(one, WeightRenaming)]
        merging: list[Any] = [one for one in steps if not isinstance(one, WeightRenaming)]
        places: dict[int, list[str]] = {}
        for name, one in made.items():
            places.setdefault(id(one), []).append(name)

        def change(name: str) -> str | None:
            new, pattern = rename_source_key(name, renamings, merging, prefix, tensors)
            if pattern is not None and name not in tensors:
                rule = "weights are read slice by slice where a tensor of the file is a tensor of the model"
                fix = (
                    f"once, on a machine that holds it: {self.architecture}.from_pretrained(folder), and torch's own state_dict() "
                    "into a safetensors file for --weights; or def model() in model.py that returns from_pretrained(folder)"
                )
                given = f"{name} is joined with others to {new} when transformers loads it"
                raise ConfigError(refusal(str(self.folder), given, rule, fix=fix))
            return None if new not in tensors and any(re.search(one, new) for one in left) else new

        return Naming({name: (one, tuple(places.get(id(one), ()))) for name, one in tensors.items()}, change)

    def _base(self) -> Any:  # noqa: ANN401 (a model of transformers)
        return self._class._from_config(self.config(), **self._dtype())

    def _adapted(self, base: nn.Module) -> nn.Module:
        return base if self.adapt is None else self.adapt(base)

    @property
    def _class(self) -> Any:  # noqa: ANN401 (a class of transformers)
        return getattr(_transformers(), self.architecture)

    def config(self) -> Any:  # noqa: ANN401 (a configuration of transformers)
        """With the entries that are changed."""
        config = _transformers().AutoConfig.from_pretrained(self.folder, local_files_only=True)
        for name, value in {"use_cache": False, **self.changes}.items():
            if hasattr(config, name):
                setattr(config, name, value)
        return config

    def _dtype(self) -> dict[str, torch.dtype]:
        return {} if self.dtype is None else {"dtype": getattr(torch, self.dtype)}


def from_pretrained(
    folder: str | Path,
    *,
    architecture: str | None = None,
    dtype: str | None = None,
    config: Mapping[str, object] | None = None,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    adapt: Callable[[nn.Module], nn.Module] | None = None,
) -> Pretrained:
    """The model of a folder that ``save_pretrained`` wrote, to be `model` in a model file, or given to `compile` and `parallelize`.

    `architecture` is a class of transformers, by default what config.json names; `dtype` that of its parameters, as "float32";
    `config` has entries of the configuration that are others (``{"attn_pdrop": 0.0}``). `allow_missing` are parameters that the
    weights may lack (``["score.*"]`` of a new head), `allow_unexpected` weights that are left. `adapt` makes another model of it
    that keeps its parameters, as ``lambda model: peft.get_peft_model(model, settings)``; what it adds is initialised. In a folder
    without weights values are drawn.

    Raises ConfigError where the folder names no class of transformers, has pickles alone, or an entry or dtype is unknown.
    """
    folder = Path(folder).resolve()
    said = _read(folder)
    name = architecture or next(iter(said.get("architectures") or ()), None)
    where, rule = str(folder / CONFIG), "a model is a class of transformers, with the settings of a config.json"
    if name is None:
        raise ConfigError(refusal(where, "it names no architecture", rule, fix='architecture="LlamaForCausalLM"'))
    if not hasattr(_transformers(), name):
        fix = "the code of a folder is not run: import the class in model.py, and return it from def model()"
        given = f"transformers has no {name}{nearest(name, dir(_transformers())) if architecture else ''}"
        raise ConfigError(refusal(where, given, rule, fix=fix))
    if dtype is not None and not (isinstance(getattr(torch, dtype, None), torch.dtype)):
        raise ConfigError(refusal(f"dtype={dtype!r}", "it is no dtype of torch", "as in float32, bfloat16"))
    made = Pretrained(
        folder,
        name,
        dtype,
        dict(config or {}),
        _has_weights(folder),
        tuple(allow_missing),
        tuple(allow_unexpected),
        adapt,
    )
    known = made.config()
    if unknown := [f"{key}{nearest(key, vars(known))}" for key in made.changes if not hasattr(known, key)]:
        raise ConfigError(refusal(where, "entries that are changed are not there", rule, unknown))
    return made


def _read(folder: Path) -> dict[str, Any]:
    rule = "a folder that save_pretrained wrote holds a config.json"
    try:
        said = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except OSError as error:
        given = "it is a folder without a config.json" if folder.is_dir() else "there is no such folder"
        fix = "models are not fetched: download it before, as by `hf download`, and name its folder; or name a model.py"
        raise ConfigError(refusal(str(folder), given, rule, fix=fix)) from error
    except ValueError as error:
        raise ConfigError(refusal(str(folder / CONFIG), f"cannot be read: {error}", rule)) from error
    if not isinstance(said, dict):
        raise ConfigError(refusal(str(folder / CONFIG), f"it holds a {type(said).__name__}", rule))
    return said


def _has_weights(folder: Path) -> bool:
    """Whether there are weights. Raises ConfigError where there are pickles alone."""
    if any(one for pattern in _WEIGHTS for one in folder.glob(pattern)):
        return True
    if pickles := sorted(one.name for pattern in _PICKLES for one in folder.glob(pattern)):
        rule = "weights are read by slices, from safetensors; pickles run code when they are read"
        fix = "load them where you trust them, and model.save_pretrained(folder)"
        raise ConfigError(refusal(str(folder), "it has weights in pickles alone", rule, pickles, fix))
    return False


def _transformers() -> Any:  # noqa: ANN401 (a module)
    try:
        import transformers
    except ModuleNotFoundError as error:
        rule = "the model of a folder is a class of transformers"
        raise ConfigError(refusal("from_pretrained", str(error), rule, fix=fix_for(error))) from error
    return transformers
