"""What the environment asks of a job: both variables, and what is refused."""

import pytest

from autopar.errors import ConfigError
from autopar.jobs.environment import JobSettings, settings


def test_settings():
    assert settings({}) == JobSettings(False, 600.0)
    assert settings({"AUTOPAR_CHECK": "1"}) == JobSettings(True, 60.0)
    assert settings({"AUTOPAR_CHECK": "0", "AUTOPAR_TIMEOUT": "2.5"}) == JobSettings(False, 2.5)
    assert settings({"AUTOPAR_CHECK": "", "AUTOPAR_TIMEOUT": "0"}) == JobSettings(False, 0.0)


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf", "1 minute"])
def test_a_limit_that_is_none_is_refused(value):
    with pytest.raises(ConfigError, match=r"AUTOPAR_TIMEOUT: is .*\n  rule: it is the number of seconds"):
        settings({"AUTOPAR_TIMEOUT": value})


def test_a_mode_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="AUTOPAR_CHECK: is 'yes'\n  rule: it is 0 or 1"):
        settings({"AUTOPAR_CHECK": "yes"})
