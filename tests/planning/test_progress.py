"""What is told of stages: their ends, and that they are under way where nothing else is said for a while."""

import io
import logging
import time

import pytest

from autopar import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(progress, "SILENCE", 0.01)


def until(done):
    while not done():
        time.sleep(0.002)


def test_a_stage_that_takes_long_says_what_it_does_until_it_ends(quick):
    told = []
    with progress.timed(lambda *words: told.append(words[:2]), "priced") as said:
        until(lambda: ("pricing", "") in told)
        said("3 of 4 calls")
        until(lambda: ("pricing", "3 of 4 calls") in told)
        said("4 calls")
    assert told[-1] == ("priced", "4 calls")
    count = len(told)
    time.sleep(0.05)
    assert len(told) == count  # nobody goes on telling


def test_a_stage_that_fails_is_not_told_as_done(quick):
    told = []

    def failing():
        with progress.timed(lambda *words: told.append(words[0]), "solved"):
            until(lambda: "solving" in told)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        failing()
    assert set(told) == {"solving"}


def test_a_terminal_sees_what_is_under_way_and_a_log_sees_all(caplog):
    """Also while logs are off, as they are while a model is exported."""
    shown = Terminal()
    tell = progress.logged(shown)
    with caplog.at_level(logging.INFO, "autopar.compile"):
        logging.disable(logging.CRITICAL)
        try:
            tell("capturing", "", 10.0)
            tell("captured", "3 operators", 12.0)
        finally:
            logging.disable(logging.NOTSET)
    assert shown.getvalue() == "autopar: capturing, 10 s\n"
    assert [record.getMessage() for record in caplog.records] == ["capturing, 10.0 s", "captured 3 operators, 12.0 s"]


def test_a_file_is_not_told(caplog):
    shown = io.StringIO()
    progress.logged(shown)("pricing", "", 10.0)
    assert not shown.getvalue()
    assert not caplog.records
