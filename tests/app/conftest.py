from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bitdial.app.jobs import JobManager
from tests.app.stand_in import ending_all
from tests.browser import found_browser


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[JobManager]:
    with ending_all(JobManager(tmp_path / "runs")) as manager:
        yield manager


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser, of whatever kind there is; without one a test is skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = found_browser()
    if path is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
