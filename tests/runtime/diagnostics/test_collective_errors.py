"""What one rank meets, all ranks raise."""

import pytest

from autopar.errors import CommError, ConfigError, ProgramMismatch
from autopar.runtime import Grid, simulate
from autopar.runtime.diagnostics.collective_errors import agree, is_alike, together
from autopar.runtime.session.compiled_job import handshake


def test_one_rank_fails_and_all_raise_the_same():
    def rank():
        comm = Grid("3").comm
        cause = ValueError("no such row") if comm.rank == 1 else None
        with pytest.raises(CommError) as raised:
            agree(comm, "reading the shards", cause)
        assert is_alike(raised.value)
        assert raised.value.__cause__ is cause
        return str(raised.value)

    said = simulate(3, rank)
    assert set(said) == {said[0]}
    assert said[0].splitlines()[0] == "reading the shards: failed on rank 1 of 3"
    assert "  - rank 1: ValueError: no such row" in said[0]


def test_ranks_with_one_cause_are_named_together_and_others_apart():
    def rank():
        comm = Grid("3").comm
        with pytest.raises(CommError, match=r"failed on ranks 0, 1, 2 of 3") as raised, together(comm, "x"):
            raise OSError("full" if comm.rank != 1 else "gone")
        return str(raised.value)

    lines = simulate(3, rank)[0].splitlines()
    assert lines[-2:] == ["  - rank 0, 2: OSError: full", "  - rank 1: OSError: gone"]


def test_a_refusal_on_all_ranks_stays_what_it_is():
    def rank():
        comm = Grid("2").comm
        with pytest.raises(ConfigError, match=r"^twice") as raised, together(comm, "x"), together(comm, "y"):
            raise ConfigError("twice")
        assert is_alike(raised.value)

    simulate(2, rank)


def test_nothing_happens_where_nothing_fails():
    def rank():
        comm = Grid("2").comm
        found = []
        with together(comm, "x"):
            found.append(comm.rank)
        return found

    assert simulate(2, rank) == [[0], [1]]


def test_the_handshake_names_the_ranks_that_differ():
    def rank():
        comm = Grid("4").comm
        handshake(comm, {"torch": "2.13", "plan": "abc"})
        with pytest.raises(ProgramMismatch, match="do not agree") as raised:
            handshake(comm, {"torch": "2.13", "plan": "abc" if comm.rank != 2 else "xyz"})
        return str(raised.value)

    lines = simulate(4, rank)[0].splitlines()
    assert [line for line in lines if line.startswith("  - ")] == [
        "  - plan is abc on rank 0, 1, 3",
        "  - plan is xyz on rank 2",
    ]
