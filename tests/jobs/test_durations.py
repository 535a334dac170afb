"""Durations as people write them."""

import pytest

from autopar.errors import ConfigError
from autopar.jobs.durations import duration_text, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("3h50m", 13800), (" 1D12H ", 129600), ("0.5h", 1800), ("2m5s", 125)],
)
def test_a_duration(text, seconds):
    assert parse_duration(text) == seconds
    assert parse_duration(duration_text(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "h", "1h2x", "50m3h", "-5m", "0s", "1 h", "1e3s", "nan", "1h1h"])
def test_no_duration(text):
    with pytest.raises(ConfigError, match=r"--stop-after: .* is no duration"):
        parse_duration(text, "--stop-after")


def test_a_bare_number_is_told_its_units():
    with pytest.raises(ConfigError, match="fix: 90s for seconds, 90m for minutes"):
        parse_duration("90")
