"""What a rank makes of signals: one is a request, several at once are the same one, a later one ends it."""

import os
import signal
import time

from autopar.jobs import signals
from autopar.jobs.signals import StopRequests


def test_signals_within_a_second_are_one_request():
    now = [10.0]
    requests = StopRequests(lambda: now[0])
    assert not requests.heard(signal.SIGUSR1)
    assert requests.reason == "signal SIGUSR1"
    now[0] = 10.9
    assert not requests.heard(signal.SIGTERM)
    assert requests.reason == "signal SIGUSR1"
    now[0] = 11.1
    assert requests.heard(signal.SIGTERM)


def test_a_signal_is_noted_while_the_context_lasts_and_not_by_a_forked_process():
    before = signal.getsignal(signal.SIGTERM)
    with signals.listening(0) as requests:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.write(writing, b"!")
            time.sleep(60)
            os._exit(0)
        assert os.read(reading, 1) == b"!"
        os.close(reading)
        os.close(writing)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        assert requests.reason == ""
        os.kill(os.getpid(), signal.SIGUSR1)
        until = time.monotonic() + 10
        while not requests.reason and time.monotonic() < until:
            time.sleep(0.001)
        assert requests.reason == "signal SIGUSR1"
    assert signal.getsignal(signal.SIGTERM) == before
    assert signal.set_wakeup_fd(-1) == -1
