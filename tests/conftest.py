"""Puts this folder on the path, so that tests in subfolders can import the helpers that stand here; golden programs; order.

Files that take long come first, so that at the end no worker of pytest-xdist is left alone with one of them
(`--no-loadscope-reorder`: they are handed out in this order, not by how many tests they have).
"""

import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("AUTOPAR_CACHE", "off")  # tests keep nothing in the user's home
GOLDEN = Path(__file__).parent / "golden"
FOLDER = "AUTOPAR_TESTS_SHARED"  # of what tests in several processes share: `shared_captures`
JOBS = frozenset(  # what they do is start jobs of several ranks
    {
        "benchmarks/test_benchmark_runs.py", "faults/test_stuck_jobs.py", "runtime/test_mpi.py", "faults/test_checked_jobs.py",
        "runtime/test_sums.py", "benchmarks/test_zoo_benchmark.py", "faults/test_job_failures.py", "runtime/test_memory_use.py",
        "examples/test_by_hand.py", "end_to_end/test_training_ranks.py", "end_to_end/test_zero_ranks.py",
        "runtime/primitives/test_partition_mpi.py", "runtime/test_profile_mpi.py", "runtime/test_program_mpi.py",
    }
)  # fmt: skip
LONG = (  # of the others; after them in any order
    "end_to_end/test_models.py", "zoo/test_zoo.py", "capture/test_capture_small.py", "codegen/test_program.py",
    "codegen/test_steps.py", "ops/test_rules.py", "partitioner/test_strategies.py", "partitioner/test_large.py",
    "test_infeasible.py", "examples/test_planner_docs.py", "test_determinism.py",
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
    """A file is run by one worker, and where there are two workers, all of JOBS by the same.

    Ranks that wait for one another do not sleep: on two cores two jobs at a time take longer than one after the other.
    """

    def _split_scope(self, nodeid):
        file = nodeid.split("::", 1)[0]
        return "jobs" if self.numnodes <= 2 and file.removeprefix("tests/") in JOBS else file


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """No garbage is looked for among thousands of tests while they are collected, nor later: all are kept."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(
            20_000, 20, 50
        )  # of what torch.export makes, too, a tenth of the time went into looking for garbage
        gc.enable()


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    places = {here / name: at for at, name in enumerate([*sorted(JOBS), *LONG])}
    assert all(path.exists() for path in places), "JOBS or LONG names a file that is not there"
    items.sort(key=lambda item: places.get(item.path, len(places)))


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
