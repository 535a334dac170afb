"""Characters to draw texts from, of all kinds: hypothesis's own table of Unicode takes 1.5 s of a process to make."""

from hypothesis import strategies as st

CHARACTERS = st.sampled_from(
    [
        *map(chr, range(0x250)),
        "\u0660",
        "\u0e01",
        "\u2028",
        "\u202e",
        "\u4e00",
        "\ufeff",
        "\ufffd",
        "\U0001f600",
        "\U0010ffff",
    ]
)
