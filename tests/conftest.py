"""A folder that all workers share; golden programs; which worker runs what, and in which order.

Files that take long come first, so that at the end no worker of pytest-xdist is left alone with one of them
(`--no-loadscope-reorder`: they are handed out in this order, not by how many tests they have).
"""

import functools
import gc
import importlib
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

os.environ.setdefault("AUTOPAR_CACHE", "off")  # tests keep nothing in the user's home
settings.register_profile("suite", derandomize=True, database=None, deadline=None)  # the same examples on every run
settings.load_profile("suite")
HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
FOLDER = "AUTOPAR_TESTS_SHARED"  # of what tests in several processes share: `shared_captures`
JOB = re.compile(r"\bmark\.(spmd|fault)\b|\bwarm_ranks\b")  # in a file that starts jobs of several ranks, or forks
LONG = (  # of the others, nine CPU seconds or more each; after them in any order
    "ops/library/test_rules.py", "codegen/test_emit.py", "zoo/test_zoo.py", "end_to_end/test_models.py",
    "proof/test_random_programs.py", "measure/test_measure.py", "partitioner/solvers/test_large_scale.py",
    "end_to_end/test_determinism.py", "capture/test_pipeline.py", "runtime/profiling/test_profiler.py",
    "runtime/windowed/test_operators.py", "runtime/windowed/test_all_windows.py",
)  # fmt: skip


def pytest_configure(config):
    if not hasattr(
        config, "workerinput"
    ):  # workers of pytest-xdist have the environment of the process that starts them
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="autopar-tests-")


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(FOLDER))


def pytest_addoption(parser):
    parser.addoption("--accept", action="store_true", help="rewrite the golden programs in tests/golden")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Files(config, log) if config.getoption("dist") == "loadfile" else None


class Files(LoadFileScheduling):
    """A file is run by one worker, and on two cores all that start jobs by the same, which forks them of one process.

    Ranks that wait for one another do not sleep: on two cores two jobs at a time take longer than one after the other.
    """

    def _split_scope(self, nodeid):
        file = nodeid.split("::", 1)[0]
        if file.startswith("tests/codegen/"):
            return "tests/codegen"  # its files look at the same compiled models: `compiled_once`
        return "jobs" if (os.cpu_count() or 1) <= 2 and starts_jobs(HERE.parent / file) else file


@pytest.hookimpl(wrapper=True)
def pytest_collection(session):
    """No garbage is looked for among thousands of tests while they are collected, nor later: all are kept."""
    worker, written = getattr(session.config, "workerinput", {}).get("workerid"), Path(os.environ[FOLDER], "bytecode")
    if worker not in (None, "gw0"):
        wait_for(written)
    gc.disable()
    try:
        return (yield)
    finally:
        if worker == "gw0":
            written.touch()
        gc.freeze()
        gc.set_threshold(
            20_000, 20, 50
        )  # of what torch.export makes, too, a tenth of the time went into looking for garbage
        gc.enable()


def wait_for(written):
    """Until the first worker has collected: compiled files that it has written need not be compiled by the others."""
    importlib.import_module("torch")
    until = time.monotonic() + 120
    while not (sys.dont_write_bytecode or written.exists() or time.monotonic() > until):
        time.sleep(0.02)


def pytest_collection_modifyitems(items):
    places = {HERE / name: at for at, name in enumerate(LONG)}
    assert all(path.exists() for path in places), "LONG names a file that is not there"
    items.sort(key=lambda item: -1 if starts_jobs(item.path) else places.get(item.path, len(places)))


@functools.cache
def starts_jobs(path):
    return JOB.search(path.read_text(encoding="utf-8")) is not None


@pytest.fixture
def golden(request):
    """A function that compares a program with the golden one of that name, or with --accept makes it the golden one."""

    def compare(name, text):
        path = GOLDEN / f"{name}.py"
        if request.config.getoption("--accept"):
            GOLDEN.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path} is missing: pytest --accept writes it"
        assert text == path.read_text(encoding="utf-8"), "if the change is meant, pytest --accept takes it over"

    return compare
