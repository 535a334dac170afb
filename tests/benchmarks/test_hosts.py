"""The cores of made hosts."""

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.several_hosts.hosts import cores


@given(st.integers(1, 9), st.lists(st.integers(0, 63), min_size=1, max_size=16, unique=True).map(sorted))
def test_hosts_share_out_the_cores_where_there_is_one_for_each(number, every):
    shares = [list(cores(place, number, every)) for place in range(number)]
    if number <= len(every):
        assert [core for one in shares for core in one] == every
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert all(shares)
    assert all(set(one) <= set(every) for one in shares)
