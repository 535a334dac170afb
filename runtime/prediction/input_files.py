"""Inputs of a prediction in files: arrays that are read by slices, of as many rows as there are.

    inputs.npy            one array, for a model that needs one input
    inputs.npz            several by name, as `numpy.savez` writes them: not compressed
    inputs.safetensors    the same
    folder/NAME.npy       the same

`opened` gives every array by its input's name, unread, and refuses with all that does not fit.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autopar.errors import CheckpointError, ConfigError, nearest, refusal
from autopar.runtime.data.input_part import Sliceable
from autopar.runtime.parameters.sources import Stored, from_file
from autopar.runtime.program.plan_reader import Description, TensorSpec, dtype_name

KINDS = (".npy", ".npz", ".safetensors")
_LOCAL_HEADER = 30  # bytes of a zip's entry before its name


@dataclass(frozen=True, slots=True)
class InputArrays:
    """The arrays by name, and their rows."""

    arrays: Mapping[str, Sliceable]
    rows: int


@dataclass(frozen=True, slots=True)
class _Sliced:
    """A tensor of a safetensors file."""

    stored: Stored

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    def __getitem__(self, index: tuple[slice, ...]) -> Any:  # noqa: ANN401 (a tensor)
        return self.stored.slice[index]


def opened(path: Path, description: Description, needed: tuple[str, ...]) -> InputArrays:
    """The inputs in a file or folder. Raises ConfigError with everything that does not fit the model."""
    specs = {item.name: item for item in description.inputs}
    arrays = _arrays(path, needed)
    problems = [f"{name!r} is no input{nearest(name, specs)}" for name in arrays if name not in specs]
    problems += [f"{name} is missing" for name in needed if name not in arrays]
    rows: dict[str, int] = {}
    for name, array in arrays.items():
        if name not in specs:
            continue
        item, shape, batched = specs[name], tuple(array.shape), name in description.batched
        fits = len(shape) == len(item.shape) and shape[batched:] == item.shape[batched:]
        if not fits:
            extents = ["any", *item.shape[1:]] if batched else item.shape
            problems.append(f"{name} has shape {list(shape)}, compiled for [{', '.join(map(str, extents))}]")
        elif batched:
            rows[name] = shape[0]
        problems += _dtype_fault(item, array)
    if len(set(rows.values())) > 1:
        problems.append(f"they differ in their rows: {', '.join(f'{name} has {n}' for name, n in rows.items())}")
    if rows and not problems and not next(iter(rows.values())):
        problems.append("there are no rows")
    if problems:
        expected = ", ".join(f"{name} {dtype_name(specs[name].dtype)}{list(specs[name].shape)}" for name in needed)
        rule = f"the program was compiled for batches of {expected}; a file has any number of rows"
        fix = "compile for other extents, with such example_inputs; the parameters are the same"
        raise ConfigError(refusal(str(path), "these are no inputs of the model", rule, problems, fix))
    return InputArrays(arrays, next(iter(rows.values()), description.rows))


def _dtype_fault(item: TensorSpec, array: Sliceable) -> list[str]:
    """Numbers are read as the input's dtype where that is of the same kind."""
    dtype = array.stored.dtype if isinstance(array, _Sliced) else getattr(array, "dtype", None)
    if isinstance(dtype, np.dtype):
        try:
            dtype = torch.from_numpy(np.empty(0, dtype.newbyteorder("="))).dtype
        except TypeError:
            return [f"{item.name} is {dtype}, which torch does not have"]
    kinds = (_kind(dtype), _kind(item.dtype)) if isinstance(dtype, torch.dtype) else ("", "")
    given = dtype_name(dtype) if isinstance(dtype, torch.dtype) else ""
    return [] if kinds[0] == kinds[1] else [f"{item.name} is {given}, compiled for {dtype_name(item.dtype)}"]


def _kind(dtype: torch.dtype) -> str:
    if dtype.is_complex:
        return "complex"
    return "floating" if dtype.is_floating_point else "truth" if dtype == torch.bool else "whole"


def _arrays(path: Path, needed: tuple[str, ...]) -> dict[str, Sliceable]:
    rule = f"inputs are a file that ends in {', '.join(KINDS)}, or a folder of NAME.npy"
    if path.is_dir():
        files = sorted(path.glob("*.npy"))
        if not files:
            raise ConfigError(refusal(str(path), "the folder holds no .npy file", rule))
        return {file.stem: _mapped(file) for file in files}
    if not path.is_file():
        raise ConfigError(refusal(str(path), "there is no such file", rule))
    if path.suffix == ".npy":
        if len(needed) != 1:
            fix = "write them into one .npz or .safetensors file, by their names"
            problem = f"it holds one array, and the outputs are made of {', '.join(needed) or 'none'}"
            raise ConfigError(refusal(str(path), problem, "a .npy file is for a model that needs one input", fix=fix))
        return {needed[0]: _mapped(path)}
    if path.suffix == ".npz":
        return _in_zip(path)
    if path.suffix == ".safetensors":
        try:
            return {name: _Sliced(stored) for name, stored in from_file(path)}
        except CheckpointError as error:
            raise ConfigError(refusal(str(path), "cannot be read as safetensors", rule)) from error
    raise ConfigError(refusal(str(path), f"it ends in {path.suffix or 'nothing'}", rule))


def _mapped(path: Path) -> Any:  # noqa: ANN401 (NumPy's)
    return _read(path, lambda: np.load(path, mmap_mode="r", allow_pickle=False))


def _in_zip(path: Path) -> dict[str, Sliceable]:
    """The arrays of an uncompressed zip, mapped where they lie in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        rule = "every rank reads its own slices, which cannot be found in what is compressed"
        fix = "write it by numpy.savez in place of savez_compressed, or as .safetensors"
        raise ConfigError(refusal(str(path), "it is compressed", rule, packed, fix))
    return {entry.filename.removesuffix(".npy"): _entry(path, entry.header_offset) for entry in entries}


def _entry(path: Path, at: int) -> Any:  # noqa: ANN401
    def mapped() -> Any:  # noqa: ANN401 (NumPy's)
        with path.open("rb") as file:
            file.seek(at)
            local = file.read(_LOCAL_HEADER)
            file.seek(at + _LOCAL_HEADER + sum(struct.unpack("<HH", local[26:30])))
            read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
            shape, fortran, dtype = read[np.lib.format.read_magic(file)[0]](file)
            if dtype.hasobject:
                raise ValueError("it holds Python objects")
            order = "F" if fortran else "C"
            if 0 in shape:
                return np.empty(shape, dtype)
            return np.memmap(path, dtype, "r", file.tell(), shape, order)  # type: ignore[call-overload]

    return _read(path, mapped)


def _read(path: Path, mapped: Callable[[], Any]) -> Any:  # noqa: ANN401 (NumPy's)
    try:
        return mapped()
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ConfigError:
    return ConfigError(refusal(str(path), f"cannot be read: {error}", "arrays are as NumPy writes them"))
