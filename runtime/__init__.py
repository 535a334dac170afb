"""What a generated program imports: the live grid, layouts, primitives with hand-derived adjoints, the training loop.

Importing it does not start MPI; making a `Grid` does, unless a simulation runs.
"""

if __name__ != "autopar.runtime":
    raise ImportError("import autopar.runtime, not runtime: a second copy under the bare name would be a silent bug")

from autopar.ir.layout import Copied, Partial, Replicate, Shard
from autopar.runtime.functional.attention import attention
from autopar.runtime.functional.batch_norm import batch_norm
from autopar.runtime.functional.dropout import (
    alpha_dropout,
    bernoulli,
    bernoulli_of,
    drop_path,
    dropout,
    exponential_like,
    feature_dropout,
    rand,
    rand_like,
    randint,
    randn,
    randn_like,
)
from autopar.runtime.functional.embedding import embedding
from autopar.runtime.functional.experts import expert_linear, experts
from autopar.runtime.functional.indexing import lookup, lookup_along, scatter_along, update_rows
from autopar.runtime.functional.layer_norm import group_norm, layer_norm, rms_norm
from autopar.runtime.functional.losses import cross_entropy, nll_loss, sample_count
from autopar.runtime.functional.reductions import (
    amax,
    amin,
    largest,
    largest_of_all,
    logsumexp,
    norm,
    smallest,
    smallest_of_all,
    std,
    var,
)
from autopar.runtime.functional.scan import cumsum
from autopar.runtime.functional.slicing import cat, flip, roll, select_row, slice_rows, unfold
from autopar.runtime.functional.softmax import log_softmax, softmax
from autopar.runtime.grid.counter_rng import drawing
from autopar.runtime.grid.default_world import default_world
from autopar.runtime.grid.grid import Axis, Grid
from autopar.runtime.local.complex_pairs import view_as_real
from autopar.runtime.local.recompute import recompute
from autopar.runtime.local.row_range import rows_from, within
from autopar.runtime.local.user_functions import function
from autopar.runtime.local.written_values import valued
from autopar.runtime.partitions.all_sum_reduce import all_sum_reduce
from autopar.runtime.partitions.broadcast import broadcast
from autopar.runtime.partitions.gather_to import gather_to
from autopar.runtime.partitions.partition import Partition
from autopar.runtime.partitions.repartition import repartition
from autopar.runtime.partitions.scatter import scatter
from autopar.runtime.partitions.send_receive import send_receive
from autopar.runtime.partitions.sum_reduce import sum_reduce
from autopar.runtime.primitives.all_gather import all_gather
from autopar.runtime.primitives.all_sum import all_sum
from autopar.runtime.primitives.all_to_all import all_to_all
from autopar.runtime.primitives.copy import copy
from autopar.runtime.primitives.count_once import once
from autopar.runtime.primitives.empty import nothing
from autopar.runtime.primitives.gather import gather
from autopar.runtime.primitives.halo import halo
from autopar.runtime.primitives.keep_first import keep
from autopar.runtime.primitives.reduce_scatter import reduce_scatter
from autopar.runtime.primitives.slice_copied import take
from autopar.runtime.primitives.split import split
from autopar.runtime.primitives.zero_fill import zero_fill
from autopar.runtime.program.pipeline import Pipeline, Segment
from autopar.runtime.program.program import Program
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.training.train import main
from autopar.runtime.transport.threads import simulate
from autopar.runtime.windowed.fused_halo import wide
from autopar.runtime.windowed.fused_halo_cost import wide_saves
from autopar.runtime.windowed.interpolation import Interpolate, interpolate
from autopar.runtime.windowed.operators import avg_pool, conv, conv_transpose, max_pool, pad
from autopar.runtime.windowed.window_layers import AvgPool, Conv, ConvTranspose, MaxPool, Pad

__all__ = [
    "AvgPool",
    "Axis",
    "Conv",
    "ConvTranspose",
    "Copied",
    "Grid",
    "Interpolate",
    "MaxPool",
    "Pad",
    "Parallel",
    "Partial",
    "Partition",
    "Pipeline",
    "Program",
    "Replicate",
    "Segment",
    "Shard",
    "all_gather",
    "all_sum",
    "all_sum_reduce",
    "all_to_all",
    "alpha_dropout",
    "amax",
    "amin",
    "attention",
    "avg_pool",
    "batch_norm",
    "bernoulli",
    "bernoulli_of",
    "broadcast",
    "cat",
    "conv",
    "conv_transpose",
    "copy",
    "cross_entropy",
    "cumsum",
    "default_world",
    "drawing",
    "drop_path",
    "dropout",
    "embedding",
    "expert_linear",
    "experts",
    "exponential_like",
    "feature_dropout",
    "flip",
    "function",
    "gather",
    "gather_to",
    "group_norm",
    "halo",
    "interpolate",
    "keep",
    "largest",
    "largest_of_all",
    "layer_norm",
    "log_softmax",
    "logsumexp",
    "lookup",
    "lookup_along",
    "main",
    "max_pool",
    "nll_loss",
    "norm",
    "nothing",
    "once",
    "pad",
    "rand",
    "rand_like",
    "randint",
    "randn",
    "randn_like",
    "recompute",
    "reduce_scatter",
    "repartition",
    "rms_norm",
    "roll",
    "rows_from",
    "sample_count",
    "scatter",
    "scatter_along",
    "select_row",
    "send_receive",
    "simulate",
    "slice_rows",
    "smallest",
    "smallest_of_all",
    "softmax",
    "split",
    "std",
    "sum_reduce",
    "take",
    "unfold",
    "update_rows",
    "valued",
    "var",
    "view_as_real",
    "wide",
    "wide_saves",
    "within",
    "zero_fill",
]
