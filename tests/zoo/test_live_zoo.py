"""Live models of the zoo are the same after they were captured."""

import live
import pytest
from test_zoo import MODELS, NAMES

from autopar.capture import capture
from autopar.model_file import load


@pytest.mark.zoo
@pytest.mark.parametrize("name", NAMES)
def test_a_live_model_is_the_same_afterwards(name):
    file = load(MODELS / f"zoo_{name}.py")
    model = file.model()
    before = live.picture(model)
    capture(model, file.example_inputs, name=name)
    assert live.changes(before, live.picture(model)) == []
