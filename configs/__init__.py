"""Machine profiles, as TOML."""

if __name__ != "autopar.configs":
    raise ImportError("import autopar.configs, not configs: a second copy under the bare name would be a silent bug")
