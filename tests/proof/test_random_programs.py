"""Models drawn from the samples of all records, under drawn strategies: see `autopar.proof.random_model`.

Always the same 36 programs, of models that are captured once, and 84 more in `make zoo`;
`benchmarks.compatibility.random_programs` draws others, thousands of them.
"""

import random

import pytest

from autopar.errors import CaptureError, ConfigError
from autopar.ops.registry import registry
from autopar.proof import GRIDS
from autopar.proof.random_calls import drawable
from autopar.proof.random_model import drawn_model
from autopar.proof.random_programs import Case

# Together the models have one call at least of each kind that real models have often.
MODELS, EVERY_TIME, CALLS, STRATEGIES = 20, 6, (6, 6), 6

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize(
    "seed", [n if n < EVERY_TIME else pytest.param(n, marks=pytest.mark.zoo) for n in range(MODELS)]
)
def test_drawn_programs_compute_what_the_model_computes(seed):
    draw = random.Random(seed)
    for case in Case.of(drawn_model(seed, CALLS), (GRIDS[seed % len(GRIDS)],)):
        for _ in range(STRATEGIES):
            assert not case.differs(draw)
        reached, possible = case.strategies.share
        assert reached > 0.25 * possible  # of all strategies, which on two axes are pairs


def test_models_are_drawn_from_most_records_alike_each_time():
    models = [drawn_model(seed) for seed in range(60)]
    drawn = {name for model in models for name in model.records}
    known = {op.name for op in registry().values() if drawable(op)}
    assert len(drawn & known) > 0.5 * len(known)
    assert drawn_model(7).text == models[7].text


DIVIDED = 12


def test_drawn_programs_in_micro_batches_compute_what_the_model_computes_or_are_refused():
    computed, refused = 0, []
    for seed in range(DIVIDED):
        draw = random.Random(seed)
        try:
            cases = Case.of(drawn_model(seed, (2, 2), batched=True), (GRIDS[seed % len(GRIDS)],), 2 + seed % 2)
        except (ConfigError, CaptureError) as error:
            refused.append(str(error))
            continue
        for case in cases:
            assert not case.differs(draw)
            assert not case.differs(draw)
            computed += 1
    assert all("rule: " in text for text in refused)
    assert computed > DIVIDED // 6  # most of what is drawn mixes the rows of its batch, or has one row
