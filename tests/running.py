"""How a run goes: in how many processes, what comes first, and what `make test` leaves to `make test-processes`."""

import gc
import os
import time

import pytest

from app.core.clock import next_midnight, seconds_until, utc_now

MAX_CORES = 8  # each process has servers, a worker and stand-ins of its own
LONG_TEST_SECONDS = 30

# Files whose tests start, kill or freeze the product's processes and its servers, the slowest first: `make test` leaves
# them (and single tests of this mark) to `make test-processes`, and nothing is waited for alone at the end.
PROCESS_FILES = (
    "test_worker_processes", "test_whole_stack", "test_worker_killed", "test_production", "test_logs",
    "test_web_process", "test_dependencies_gone", "test_worker_without_redis", "test_two_web_processes",
    "test_run_servers", "test_accounts", "test_odd_settings", "test_hanging", "test_redis_pools", "test_model_factory",
    "test_servers", "test_starting", "test_web_resources", "test_tls", "test_tasks", "test_tour", "test_process",
)  # fmt: skip


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Use two more processes than there are cores, because half of a test is waiting."""
    return min(os.cpu_count() or 1, MAX_CORES) + 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        return PROCESS_FILES.index(item.path.stem) if item.path.stem in PROCESS_FILES else len(PROCESS_FILES)

    items.sort(key=rank)
    for item in items:
        if item.path.stem in PROCESS_FILES:
            item.add_marker("processes")


def pytest_collection_finish() -> None:
    """Let the collector skip what stays until the end, and come less often. It took a sixth of the tests' CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Let no test begin just before midnight UTC. Its prompts would count for two days."""
    now = utc_now()
    if (left := seconds_until(next_midnight(now), now)) < LONG_TEST_SECONDS:
        time.sleep(left)
