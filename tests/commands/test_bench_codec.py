"""``bitdial bench codec``: the table, the plot where one was asked for, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from bitdial.compression import comparison
from tests.commands.conftest import make_run
from tests.commands.pictures import bitdial, files, write


@pytest.fixture
def pictures(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("bitdial.commands.bench_codec_run.QUALITIES", (5, 40, 70, 90))
    write("in/a.png", 40, 30)
    write("in/deep/b.png", 50, 36)
    return place


def test_table_and_no_files(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files("in"), sorted(path.name for path in pictures.iterdir())
    done = bitdial(capsys, "bench", "codec", "in")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("2 pictures, on ")
    rows = [line.split() for line in done.out.splitlines() if re.match(r"(runs/|JPEG|WebP|AVIF)", line)]
    assert [row[0] for row in rows] == ["runs/compress-2", *(f"{kind}," for kind in comparison.available_kinds())]
    assert "BD-rate" not in done.out
    assert (files("in"), sorted(path.name for path in pictures.iterdir())) == before


def test_several_codecs_with_a_plot(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3, 5):
        make_run(Path(f"more/compress-{number}"), number, "2026-01-01")
    models = ["runs/compress-1", "runs/compress-2/models/codec-seed0.pt", "more/compress-3", "more/compress-4"]
    Path("in/text.png").write_text("no picture")
    done = bitdial(capsys, "bench", "codec", "in", "--model", *models, "--out", "made/here", "--json")
    assert done.status == 2
    found = json.loads(done.out)
    assert list(found["codecs"]) == models
    assert found["pictures"] == 2
    assert list(found["failures"]) == ["in/text.png"]
    assert {each["codec"] for each in found["codecs"][models[1]]} == {models[1], *comparison.available_kinds()}
    assert {each["part"] for each in found["codecs"][models[0]]} == {"own", "size", "curve"}
    assert {each["part"] for each in found["codecs"][models[1]]} == {"own", "size"}
    told = [*found["bd_rates"], *(note.split()[6] for note in found["notes"] if note.startswith("no BD-rate"))]
    assert sorted(told) == sorted(comparison.available_kinds())
    with Image.open("made/here/rate_distortion.png") as image:
        assert min(image.size) > 300
    table = bitdial(capsys, "bench", "codec", "in", "--model", *models[:2], "--limit", "1", "--out", "made")
    assert (table.status, table.out.splitlines()[0][:11]) == (0, "1 picture, ")
    assert "\nruns/compress-2 codec-seed0 " in table.out
    assert table.out.endswith("\nPlot: made/rate_distortion.png\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "expected one FOLDER, before the flags, got nothing; e.g. `bitdial bench codec holiday/`"),
        ("in other", "expected one FOLDER, before the flags, got 'in' 'other'"),
        ("--model runs/compress-1 in", "expected one FOLDER, before the flags, got nothing"),
        ("no", "expected a folder of pictures at no, got nothing; check the path"),
        ("in/a.png", "expected a folder of pictures at in/a.png, got a file"),
        ("runs", "expected pictures in runs, got none; name a folder that has some"),
        ("in --limit 0", "--limit: expected a value greater than or equal to 1, got 0"),
        ("in --model in", "in is not the folder of a run: it has no config.yaml"),
        (
            "in --model runs/compress-1 runs/compress-1",
            "--model: expected different codecs, got runs/compress-1, runs/",
        ),
        ("in --out in/a.png", "the system refused 'in/a.png': File exists"),
        ("in --max_pixels 9", "in/a.png must have at most 9 pixels, got 40 x 30"),
    ],
)
def test_bad_input(words: str, expected: str, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = bitdial(capsys, "bench", "codec", *words.split())
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"bitdial: {expected}")
