"""What benchmarks/prediction.py makes of its rows; and that the plans it names are plans of the models it names."""

import pytest

import autopar
from autopar.ir import machine as machines
from benchmarks import prediction
from benchmarks.models import MODELS, batch, seeded


def row(predicted, seconds):
    return prediction.PlanPrediction("m", "p", dict.fromkeys(prediction.PRICES, predicted), seconds, 0.0, 110, 100)


def test_ranks_correlate_as_spearman_says():
    rising = [row(1.0, 2.0), row(2.0, 3.0), row(5.0, 3.5), row(9.0, 90.0)]
    assert prediction.rank_correlation(rising, "shipped") == pytest.approx(1.0)
    falling = [row(one.predicted["shipped"], -one.seconds) for one in rising]
    assert prediction.rank_correlation(falling, "shipped") == pytest.approx(-1.0)
    swapped = [row(1.0, 3.0), row(2.0, 2.0), row(3.0, 4.0)]
    assert prediction.rank_correlation(swapped, "shipped") == pytest.approx(1 - 6 * 2 / (3 * 8))


def test_the_summary_has_worst_and_median_errors():
    found = prediction.summary([row(1.1, 1.0), row(0.8, 1.0), row(1.0, 1.0)])
    assert found["measured"]["worst_error"] == pytest.approx(0.2)
    assert found["measured"]["median_error"] == pytest.approx(0.1)
    assert found["peak"] == pytest.approx({"worst_error": 0.1, "median_error": 0.1})


def test_there_are_enough_plans():
    assert set(prediction.PLANS) == set(MODELS)
    assert sum(map(len, prediction.PLANS.values())) >= 20


@pytest.mark.parametrize(("name", "labels"), [("mlp", ("chosen", "features in")), ("unet", ("depth",))])
def test_a_plan_is_priced_anew_as_it_was(name, labels):
    model = MODELS[name](True)
    for pins in (prediction.PLANS[name][label] for label in labels):
        compiled = autopar.compile(seeded(model), batch(model), grid="2", optimizer="sgd", name=name, pin=pins)
        again = prediction.priced(compiled, machines.load("cpu"), measured=False)
        assert again == pytest.approx(compiled.plan.predicted.seconds, rel=1e-9)
