"""Every page in a real browser with content in it, narrow and wide: no text covers another or is cut."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bitdial.app.jobs import JobManager
from tests.app.served import Pages, Served, serving
from tests.app.stand_in import ENDLESS, ending_all, launch, until_begun, until_ended

pytest.importorskip("gradio", reason="the extra app is not installed")

CHECKS = (Path(__file__).parents[1] / "pages" / "overlaps.js").read_text(encoding="utf-8")
LONG = "a-run-with-a-name-that-somebody-thought-would-say-all-of-it-" + "x" * 40
TRACE = "\n".join(
    f"  File '/a/folder/of/some/depth/module_{number}.py', line {number}, in call" for number in range(90)
)
ARMS = ("baseline_fp32", "cpt", "static_2bit", "static_4bit", "static_8bit", "static_mixed_2_4", "matched_cost")


def run_of(root: Path, name: str, *, ended: str, **told: Any) -> None:
    """The folder of a run as one leaves it that was started by hand."""
    folder = root / name
    folder.mkdir(parents=True)
    model = told.pop("model", "resnet20")
    config = {"recipe": "cyclic", "model": model, "dataset": "fashion-mnist", "lr": 0.1 + len(name), "epochs": None}
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "early_stopping_patience": len(name)}))
    rows = [
        f"{arm},{step},{2.5 / step},{1 - 1 / step},{8 if step % 2 else 2},{0.002 + step / 1e5}"
        for arm in ARMS
        for step in (1, 500, 100_000)
    ]
    (folder / "metrics.csv").write_text("\n".join(["phase,step,train_loss,train_accuracy,bits,gamma", *rows]))
    (folder / "results.json").write_text("{}")
    (folder / "report.html").write_text("<p>report")
    (folder / "plots").mkdir()
    (folder / "plots" / f"{'accuracy_by_width_' * 5}.png").write_bytes(b"")
    (folder / "progress.json").write_text(
        json.dumps({"began": time.time() - 4000, "updated": time.time(), "ended": ended, "share": 0.3, **told})
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Runs of every state: two that are finished, and a failed, a stopped, a live and a waiting one."""
    place = tmp_path_factory.mktemp("layout")
    with ending_all(JobManager(place / "runs")) as manager, serving(place) as found:
        score = {"value": 0.9712, "what": "static_mixed_2_4 at 4 bits", "bytes": 94_000}
        run_of(manager.root, "cyclic-fashion", ended="finished", score=score)
        run_of(manager.root, LONG, ended="finished", model="/a/folder/of/networks/somewhere/net.py:make", score=score)
        run_of(manager.root, "halted", ended="stopped", message="stopped by SIGTERM after step 21 of 31 (epoch 0)")
        failed = launch(
            manager, f"print({TRACE!r}); raise SystemExit('the data is not where it was: ' + 40 * '/folder')"
        )
        until_ended(manager, failed)
        live = launch(manager, f"print({TRACE!r}); {ENDLESS}")
        until_begun(manager, live)
        found.runs = {"failed": failed, "live": live, "waiting": launch(manager, ENDLESS)}
        yield found


@pytest.fixture
def pages(chromium: Any, served: Served) -> Iterator[Pages]:
    found = Pages(chromium, served)
    yield found
    found.close()
    assert found.complaints == []


def wrong_with(page: Any, width: int) -> dict[str, Any]:
    """What is covered, cut, hidden or hardly seen of a page."""
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(250)
    found: dict[str, Any] = page.evaluate(CHECKS)
    assert found.pop("texts") > 2
    found.pop("figures")
    return {what: wrong for what, wrong in found.items() if wrong}


def looked_at(page: Any, name: str) -> None:
    for width in (1280, 400):
        assert wrong_with(page, width) == {}, (name, width)


SHOWN: dict[str, tuple[str, str]] = {
    "runs": ("/runs", "table.runs"),
    "finished": (f"/run?run={LONG}", "figure.chart path"),
    "failed": ("/run?run={failed}", "pre.log"),
    "live": ("/run?run={live}", "pre.log"),
    "waiting": ("/run?run={waiting}", ".facts"),
    "compare": (f"/compare?run=cyclic-fashion&run={LONG}&run=halted", "figure.chart path"),
    "compared with nothing": ("/compare", ".why"),
    "no run": ("/run?run=nothing", ".why"),
}
"""Page -> address, and what has come when its content has."""


@pytest.mark.parametrize("name", ["runs", "finished"])
def test_nothing_of_the_runs_is_cut_or_covered(pages: Pages, served: Served, name: str) -> None:
    shown(pages, served, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*SHOWN} - {"runs", "finished"}))
def test_nothing_of_a_run_in_any_state_is_cut_or_covered(pages: Pages, served: Served, name: str) -> None:
    shown(pages, served, name)


def shown(pages: Pages, served: Served, name: str) -> None:
    path, sign = SHOWN[name]
    page = pages.open(path.format(**served.runs))
    page.wait_for_selector(sign, state="attached")
    for folded in page.locator("details:visible").all():
        folded.evaluate("part => { part.open = true }")
    looked_at(page, name)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["cyclic", "ternary", "joint", "compress"])
def test_nothing_of_a_form_is_cut_or_covered(pages: Pages, recipe: str) -> None:
    page = pages.open(f"/train-{recipe}")
    page.get_by_text("More options").click()
    page.wait_for_selector(".more .label-wrap >> nth=1")
    for folded in page.locator(".more .label-wrap").all()[1:]:
        folded.click()
    for name, value in {"lr": "fast", "batch_size": "-", "seeds": "one two three " * 8}.items():
        page.locator(f'[id="field-{name}"] input, [id="field-{name}"] textarea').first.fill(value)
    page.click("#start")
    page.wait_for_function("document.querySelector('#field-lr').innerText.includes('expected a number')")
    looked_at(page, recipe)


@pytest.mark.slow
@pytest.mark.parametrize(("path", "button"), [("/benchmark", "#measure"), ("/recommend", "#advise")])
def test_nothing_of_what_was_measured_is_cut_or_covered(pages: Pages, path: str, button: str) -> None:
    page = pages.open(path)
    page.click(button)
    page.wait_for_selector(".verdict", timeout=120_000)
    looked_at(page, path)


@pytest.mark.slow
def test_nothing_of_what_is_explored_is_cut_or_covered(pages: Pages, served: Served) -> None:
    root = served.folder / "runs"
    small = "--model_options.channels 4 --model_options.latent_channels 4 --crop 32 --batch_size 2 --steps 2 --crops 2"
    codecs = f"train compress {small} --coded_pictures 1 --lambdas .05 .005 .0005 --run_dir {root / 'codecs'}"
    widths = f"train joint --model tiny_cnn --steps 3 --limit_train 64 --limit_test 32 --run_dir {root / 'widths'}"
    for line, name in ((widths, "widths"), (codecs, "codecs")):
        subprocess.run([sys.executable, "-m", "bitdial", *line.split()], check=True, capture_output=True)
        page = pages.open(f"/explore?run={name}")
        page.wait_for_selector("#explore:visible")
        page.click("#explore")
        page.wait_for_selector(".found img")
        if name == "widths":
            page.get_by_text("Widths of groups of layers").click()
        looked_at(page, name)


@pytest.mark.parametrize(
    ("style", "found", "words"),
    [
        ("td.model { display: block; width: 40px; overflow: hidden; white-space: nowrap; }", "hidden", "net.py:make"),
        ("td.model { position: relative; left: -300px; }", "covered", "net.py:make"),
        (".scroll { overflow: visible !important; } table.runs { width: 2000px !important; }", "hidden", "begun"),
    ],
)
def test_what_is_cut_or_covered_is_found(pages: Pages, style: str, found: str, words: str) -> None:
    page = pages.open("/runs")
    page.wait_for_selector("table.runs")
    assert wrong_with(page, 1280) == {}
    page.add_style_tag(content=style)
    wrong = wrong_with(page, 1280)
    assert any(words in each for each in wrong[found]), wrong


def test_a_page_has_a_title_of_its_own(pages: Pages) -> None:
    for path, title in (("/runs", "Runs · bitdial"), (f"/run?run={LONG}", f"{LONG} · Run · bitdial")):
        page = pages.open(path)
        page.wait_for_function("title => document.title === title", arg=title)
