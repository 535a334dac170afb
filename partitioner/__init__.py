"""The abstract problem, its solvers, and the way from a priced graph to a plan."""

if __name__ != "autopar.partitioner":
    raise ImportError(
        "import autopar.partitioner, not partitioner: a second copy under the bare name would be a silent bug"
    )
