"""``autopar predict build inputs.npy -o outputs.npy``: the outputs of a compiled model, of which every rank computes its part.

Every rank reads its own part of the inputs, and writes its own part of the outputs; nobody holds a whole one. Inputs are in a
file, or what ``inputs(part)`` of the model file yields. The last batch has what rows are left.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from autopar.errors import ConfigError, refusal
from autopar.runtime.data.input_part import input_part
from autopar.runtime.diagnostics import call_site, failure
from autopar.runtime.diagnostics.collective_errors import together
from autopar.runtime.prediction import input_files
from autopar.runtime.prediction.input_files import InputArrays
from autopar.runtime.prediction.output_files import OutputFiles
from autopar.runtime.process import share_cores
from autopar.runtime.program.plan_reader import Description
from autopar.runtime.program.program import Program
from autopar.runtime.progress import show
from autopar.runtime.session import compiled_job
from autopar.runtime.session.compiled_job import CompiledJob
from autopar.runtime.session.outputs import Outputs
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.session.predicting import check_outputs, needed_inputs
from autopar.runtime.training import weight_options

CALL_SITE = call_site.PROGRAM
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict with the folder that the command line names. A failure ends the whole job with status 1, its cause printed."""
    parser = argparse.ArgumentParser(prog="autopar predict")
    parser.add_argument("folder", type=Path)
    parser.add_argument("inputs", type=Path, nargs="?")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path)
    weight_options.add(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=sorted(DTYPES))
    options = parser.parse_args(arguments)
    path = options.folder / "program.py"
    program: Program = runpy.run_path(str(path), run_name="program")["PROGRAM"]
    comm = program.grid.comm
    with failure.reported(comm):
        share_cores(comm)
        opened = compiled_job.open_job(program, path, options.seed)
        for line in predict(opened, options):
            show(comm.rank, line)
        comm.barrier()  # ranks that leave together free at exit what they share


def predict(opened: CompiledJob, options: argparse.Namespace) -> Iterator[str]:
    """Predict as the command line says; yields lines worth telling. Collective."""
    comm, described = opened.program.grid.comm, opened.description
    dtype = DTYPES.get(options.dtype)
    with together(comm, "reading the command line"):
        check_outputs(described)
        arrays = None
        if options.inputs is not None:
            arrays = input_files.opened(options.inputs, described, needed_inputs(described))
        elif opened.file is None or opened.file.inputs is None:
            rule = "inputs are in a file, or inputs() of the model file yields them, or inputs(part) parts of them"
            raise ConfigError(refusal("autopar predict", "there is nothing to predict from", rule))
        else:
            compiled_job.check_parts(opened, "inputs")
    yield from (f"note: {note}" for note in opened.notes)
    parallel = compiled_job.parallel(opened, options.seed, dtype, trains=False)
    yield from _values(parallel, options)
    parallel.eval()
    sizes = None if arrays is None else batch_sizes(arrays.rows, described, parallel.takes)
    with together(comm, f"--output {options.output}"):
        rows, batches = (None, None) if sizes is None else (sum(sizes), len(sizes))
        files = OutputFiles(options.output, described, dtype, rows, batches)
    yield from (f"note: {name} is bfloat16, and written as float32" for name in files.widened)
    with together(comm, f"opening {options.output}"):
        if comm.rank == 0:
            files.open(create=True)
    with together(comm, f"opening {options.output}"):
        if comm.rank != 0:
            files.open(create=False)
    predicted = (
        _from_file(parallel, arrays, sizes) if arrays is not None and sizes else _from_model(parallel, opened, dtype)
    )
    start = number = 0
    for count, outputs in predicted:
        with together(comm, f"writing {options.output}"):
            files.write(outputs, parallel.grid, number, start)
        number, start = number + 1, start + count
    with together(comm, f"writing {options.output}"):
        files.close()
    with together(comm, f"writing {options.output}"):
        if comm.rank == 0:
            files.finish(start, number)
    parallel.free()
    plural = "es" * (number != 1)
    yield f"predicted  {start} rows in {number} batch{plural}: {', '.join(map(str, files.files))}"


def batch_sizes(rows: int, described: Description, takes: Callable[[int], bool]) -> list[int]:
    """So many rows in batches that a program takes. Raises ConfigError where what is left over cannot be divided so.

    >>> batch_sizes(9, Description("net", "2", (), (), rows=4), lambda rows: rows > 1)
    [4, 3, 2]
    """
    full, rest = divmod(rows, described.rows)
    if not rest or takes(rest):
        return [described.rows] * full + [rest] * bool(rest)
    last = (described.rows + rest - (described.rows + rest) // 2, (described.rows + rest) // 2)
    if full and all(map(takes, last)):
        return [described.rows] * (full - 1) + [*last]
    problem = f"{rows} rows in batches of {described.rows} leave {rest}"
    rule = described.fixed or "every rank needs a row of what is split"
    fix = (
        f"compile for this size, too (autopar compile --batch-sizes {rest}), pad the inputs, or predict on fewer ranks"
    )
    raise ConfigError(refusal("inputs of the prediction", problem, rule, fix=fix))


def _values(parallel: Parallel, options: argparse.Namespace) -> Iterator[str]:
    """Load the parameters; yields where they are from."""
    if options.checkpoint is not None:
        found = parallel.load(options.checkpoint)
        yield f"loaded     {found.path}, after step {found.step}"
    elif options.weights is not None:
        yield from weight_options.load(parallel, options)
    elif parallel.description.model_path:
        yield "note: the parameters are the model file's own; --weights or --checkpoint say where trained ones are"


def _from_file(parallel: Parallel, arrays: InputArrays, sizes: Sequence[int]) -> Iterator[tuple[int, Outputs]]:
    """The rows and outputs of every batch of a file."""
    start, queue = 0, parallel.grid.queue is not None
    for rows in sizes:
        part = input_part([(parallel.description, {})], (), rows) if queue else parallel.input_part(rows)
        with together(parallel.grid.comm, "reading the inputs"):
            given = {name: part.slice(name, array, first=start) for name, array in arrays.arrays.items()}
        yield rows, parallel.predict(**given) if queue else parallel.predict_parts(**given)
        start += rows


def _from_model(parallel: Parallel, opened: CompiledJob, dtype: torch.dtype | None) -> Iterator[tuple[int, Outputs]]:
    """The rows and outputs of every batch that the model file yields."""
    comm, file = parallel.grid.comm, opened.file
    assert file is not None
    assert file.inputs is not None
    by_part = file.wants_part(file.inputs)
    with together(comm, "reading the inputs"):
        yielded = file.inputs(parallel.input_part()) if by_part else file.inputs()
    source = compiled_job.drawn_alike(iter(yielded), seed=0)
    count = 0
    while (batch := compiled_job.next_alike(comm, source, file.path.name, "inputs()")) is not None:
        args, kwargs = compiled_job.arguments(compiled_job.cast(batch, dtype))
        count += 1
        called = parallel.predict_parts if by_part else parallel.predict
        yield parallel.rows_of(args, kwargs, parts=by_part), called(*args, **kwargs)
    if not count:
        raise ConfigError(refusal(file.path.name, "inputs() yields nothing", "it yields inputs to predict from"))


if __name__ == "__main__":
    main(sys.argv[1:])
