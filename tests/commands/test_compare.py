"""``bitdial compare``: runs of several recipes in one table and on one page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import bitdial
from bitdial.cli import main


def test_runs_of_several_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    bitdial.run("joint", model="tiny_cnn", steps=3, bitwidth_options=[2, 8], sensitivity=False, run_dir="runs/joint")
    bitdial.run("ternary", model="tiny_cnn", epochs=1, batch_size=512, run_dir="runs/ternary")
    capsys.readouterr()
    assert main(["compare", "runs/joint", "runs/ternary"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert " leads with " in text
    assert "with one seed a difference may be chance" in text
    assert "differences are paired by seed" in text
    page = Path("comparison.html").read_text()
    for part in ("runs/joint", "runs/ternary", "Options that differ", "training_method"):
        assert part in page.replace("<wbr>", "")
    for order in (
        ["runs/joint", "runs/ternary"],
        ["runs/ternary", "runs/joint"],
    ):  # one is not that of ranks
        assert main(["compare", *order]) == 0
        page = Path("comparison.html").read_text().replace("<wbr>", "")
        assert re.findall(r"<span>(runs/\w+)</span></th>", page.partition("Options that differ")[2])[:2] == order
        row = page.partition("<span>batch_size</span>")[2].partition("</tr>")[0]
        given = dict(zip(order, re.findall(r">(\d+)</td>", row), strict=True))
        assert given["runs/ternary"] == "512" != given["runs/joint"]
    capsys.readouterr()
    for words, told in (
        (["runs/joint"], "expected two folders of runs or more to compare, got 1"),
        (["runs/joint", "runs/joint"], "expected different runs to compare, got one twice"),
        (["runs/joint", "runs/none"], "expected the folder of a run at runs/none, got nothing"),
        (["runs/joint", "runs/ternary", "--report", "x.pdf"], "expected a file that ends in .html"),
    ):
        assert main(["compare", *words]) == 2
        assert told in capsys.readouterr().err
    Path("runs/joint/results.json").unlink()
    assert main(["compare", "runs/joint", "runs/ternary"]) == 2
    assert "`bitdial train joint --resume runs/joint` goes on" in capsys.readouterr().err
