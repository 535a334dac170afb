"""From a plan to steps, from steps to the text of one SPMD program, and the symbolic check in between."""

if __name__ != "autopar.codegen":
    raise ImportError("import autopar.codegen, not codegen: a second copy under the bare name would be a silent bug")
