"""In a notebook results stand as tables: run by Jupyter itself, where nbconvert is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CELLS = [
    'import torch, bitdial as bd\nbd.run("joint", model="tiny_cnn", steps=3, bitwidth_options=[2, 8])',
    'net = bd.load("runs/joint-1")\nbatches = [(torch.randn(8, 1, 8, 8), torch.randint(10, (8,)))]\n'
    "bd.sweep(net, batches, bits=[2, 8])",
    "bd.cost(net, torch.randn(1, 1, 8, 8))",
]


@pytest.mark.slow
def test_tables_in_a_notebook(tmp_path: Path) -> None:
    pytest.importorskip("nbconvert")
    pytest.importorskip("ipykernel")
    cells = [
        {"cell_type": "code", "id": f"c{n}", "source": source, "metadata": {}, "outputs": [], "execution_count": None}
        for n, source in enumerate(CELLS)
    ]
    content = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "first.ipynb").write_text(json.dumps(content))
    words = ["--to", "notebook", "--execute", "--inplace", "first.ipynb"]
    subprocess.run([sys.executable, "-m", "nbconvert", *words], cwd=tmp_path, check=True)
    run = json.loads((tmp_path / "first.ipynb").read_text())
    shown = []
    for cell in run["cells"]:
        (result,) = [output for output in cell["outputs"] if output["output_type"] == "execute_result"]
        shown.append("".join(result["data"]["text/html"]))
    for html, words in zip(
        shown, (["bits", "accuracy", "BitOps"], ["bits", "accuracy", "loss"], ["layer", "MACs"]), strict=True
    ):
        assert html.startswith("<pre")
        assert all(word in html for word in words)
