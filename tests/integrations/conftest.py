"""Settings for the tests of the callbacks."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _collect_only_what_the_tests_make() -> Iterator[None]:
    """Spare every Trainer a walk over the hundred thousands of objects that importing transformers leaves."""
    gc.freeze()
    yield
    gc.unfreeze()
