"""What a generated program imports: the live grid, layouts, primitives with hand-derived adjoints, and the training loop."""

if __name__ != "autopar.runtime":
    raise ImportError("import autopar.runtime, not runtime: a second copy under the bare name would be a silent bug")
