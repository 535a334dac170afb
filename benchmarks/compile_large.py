"""How long real, large models take to compile, stage by stage, how much memory that takes, and how it grows with depth.

    python -m benchmarks.compile_large                       all of `CASES`, then the depths of one model
    python -m benchmarks.compile_large gpt2-4x2 llama-8b     some of them; --no-depth leaves the depths out
    python -m benchmarks.compile_large --json

Every compilation is a process of its own, from the configuration to program and plan, captured on the meta device. `peak` is
that process's largest resident size. `graph to plan` is what follows the capture. `unlimited` compiles without a memory limit, the
others with the limit of an 80 GB GPU, under which parameters are gathered for use or blocks computed again.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.jobs import answer_of
from benchmarks.options import add_json, described

STAGES = ("captured", "priced", "solved", "emitted")


@dataclass(frozen=True, slots=True)
class ModelCase:
    """One compilation: a configuration of transformers, a batch of rows x tokens, a grid, a machine, a limit per rank."""

    family: str
    size: dict[str, int]
    rows: int
    tokens: int
    grid: str
    machine: str
    memory: str


GPT2 = {"n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024}
LLAMA_8B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192,
}  # fmt: skip
LLAMA_70B = LLAMA_8B | {
    "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64
}  # fmt: skip
CASES = {
    "gpt2-4x2": ModelCase("gpt2", GPT2, 32, 1024, "4x2", "cpu", "1TiB"),
    "gpt2-2x2x2": ModelCase("gpt2", GPT2, 32, 1024, "2x2x2", "cpu", "1TiB"),
    "llama-8b-unlimited": ModelCase("llama", LLAMA_8B, 64, 4096, "8x8", "h100", "100TiB"),
    "llama-8b": ModelCase("llama", LLAMA_8B, 64, 4096, "8x8", "h100", "80GB"),
    "llama-8b-40GB": ModelCase("llama", LLAMA_8B, 64, 4096, "8x8", "h100", "40GB"),
    "llama-70b-unlimited": ModelCase("llama", LLAMA_70B, 64, 4096, "64x8", "h100", "100TiB"),
    "llama-70b": ModelCase("llama", LLAMA_70B, 64, 4096, "64x8", "h100", "80GB"),
}
DEPTHS = (4, 8, 16, 32, 80)
StageFacts = dict[str, Any]


def of_depth(layers: int) -> ModelCase:
    """The 8B model's layers, so many of them."""
    base = CASES["llama-8b-unlimited"]
    return replace(base, size=base.size | {"num_hidden_layers": layers})


def compiled(case: ModelCase) -> StageFacts:
    """Compile in this process, and say how long each stage took."""
    import torch
    import transformers

    import autopar
    from autopar.ir.plan_file import to_json

    seconds = dict.fromkeys(STAGES, 0.0)
    began = time.perf_counter()

    def progress(stage: str, text: str, taken: float) -> None:
        seconds[stage] = seconds.get(stage, 0.0) + taken

    def model() -> torch.nn.Module:
        if case.family == "gpt2":
            return transformers.GPT2LMHeadModel(transformers.GPT2Config(**case.size, use_cache=False))
        rope = {"rope_theta": 500000.0, "rope_type": "default"}
        config = transformers.LlamaConfig(**case.size, rope_parameters=rope, use_cache=False)
        return transformers.LlamaForCausalLM(config)

    def inputs() -> dict[str, torch.Tensor]:
        ids = torch.zeros(case.rows, case.tokens, dtype=torch.int64, device="meta")
        return {"input_ids": ids, "labels": ids}

    result = autopar.compile(
        model, inputs, grid=case.grid, machine=case.machine, memory=case.memory, name="model", progress=progress
    )
    total = time.perf_counter() - began
    plan = to_json(result.plan)
    return {
        "total": total,
        "seconds": seconds,
        "graph_to_plan": sum(taken for stage, taken in seconds.items() if stage != "captured"),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "operators": len(result.graph.nodes),
        "variables": result.plan.solver.variables,
        "strategies": result.plan.solver.strategies,
        "gap": result.plan.solver.gap,
        "method": result.plan.solver.method,
        "gathered": sum("all_gather" in row.primitive for row in result.plan.conversions),
        "recomputed": any(result.plan.recomputed),
        "lines": len(result.source.splitlines()),
        "plan_bytes": len(plan),
    }


def measured(name: str, case: ModelCase) -> StageFacts:
    """The same in a process of its own."""
    values = json.dumps([getattr(case, field) for field in ModelCase.__slots__])
    command = [sys.executable, "-m", "benchmarks.compile_large", "--one", values]
    return {"name": name, **answer_of(command, name)}


def table(rows: list[StageFacts], title: str) -> Table:
    shown = Table("model", title=title, title_justify="left")
    names = (*STAGES, "graph to plan", "total s", "peak GiB", "operators", "variables", "gap", "method", "lines")
    for name in names:
        shown.add_column(name, justify="right")
    for row in rows:
        stages = [f"{row['seconds'][stage]:.2f}" for stage in STAGES]
        more = [f"{row['graph_to_plan']:.2f}", f"{row['total']:.1f}", f"{row['peak_bytes'] / 2**30:.2f}"]
        counts = [f"{row['operators']}", f"{row['variables']}", f"{row['gap']:.2%}", row["method"], f"{row['lines']}"]
        name = row["name"] + (", computed again" if row["recomputed"] else "")
        shown.add_row(name, *stages, *more, *counts)
    return shown


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("cases", nargs="*", help=f"{', '.join(CASES)} (all)")
    parser.add_argument("--no-depth", action="store_true", help="leave out how it grows with depth")
    add_json(parser)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(compiled(ModelCase(*json.loads(options.one)))))
        return
    unknown = set(options.cases) - CASES.keys()
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: not among {', '.join(CASES)}")
    facts = [measured(name, CASES[name]) for name in options.cases or CASES]
    depths = [] if options.no_depth else [measured(f"{n} layers", of_depth(n)) for n in DEPTHS]
    if options.json:
        print(json.dumps({"cases": facts, "depths": depths}, indent=1))
        return
    console = Console(width=170)
    console.print(table(facts, "seconds from a configuration to a program"))
    if depths:
        console.print(table(depths, "LLaMA-3 8B's layers, grid 8x8, no memory limit"))


if __name__ == "__main__":
    main()
