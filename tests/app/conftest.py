from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bitdial.app.jobs import JobManager
from tests.app.stand_in import ending_all


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[JobManager]:
    with ending_all(JobManager(tmp_path / "runs")) as manager:
        yield manager
