"""Settings for all tests."""

from __future__ import annotations

import gc
import os

# Where tests share the processors with each other, threads that wait for their turn by spinning take a hundred times as
# long. Read when OpenMP is loaded: before torch, and by the processes that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

# Small networks: a second thread costs more than it gives, on a busy machine milliseconds an operation. Set here alone:
# a run and its resumption are the same bit for bit only with the same number of threads.
torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def _collect_only_what_a_module_makes() -> None:
    """Spare `gc.collect`, which steps in parts and Trainers call, a walk over the millions of objects of imports."""
    gc.collect()  # of what came since the last time; else what is garbage would be kept for good
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let coverage look at the first case of each test only: a traced interpreter takes two thirds longer."""
    seen = set()
    for item in items:
        name = getattr(item, "originalname", None) or item.name
        place = item.nodeid.rpartition("::")[0], name
        if place in seen:
            item.add_marker("no_cover")
        seen.add(place)
