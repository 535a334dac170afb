"""What compute, communication and memory cost on a machine described by a TOML profile."""

if __name__ != "autopar.costmodel":
    raise ImportError(
        "import autopar.costmodel, not costmodel: a second copy under the bare name would be a silent bug"
    )
