"""The examples of docs/data.md and docs/models.md run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bitdial.data import make_loader
from bitdial.models import MODELS, build_model

DOCS = Path(__file__).parents[2] / "docs"


def examples(page: str) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL))


def test_data_page_runs() -> None:
    names: dict[str, object] = {}
    exec(examples("data.md"), names)
    loader = make_loader(names["data"].train, 16, train=True, augment=names["augment"])  # type: ignore[attr-defined, arg-type]
    _, labels = next(iter(loader))
    assert labels.shape == (16, 10)


def test_models_page_runs_and_its_counts_are_right() -> None:
    exec(examples("models.md"), {})
    page = (DOCS / "models.md").read_text()
    for name in MODELS:
        model = build_model(name, num_classes=10, in_channels=3, image_size=32)
        assert f"{sum(each.numel() for each in model.parameters()):,}" in page, name


@pytest.mark.parametrize("name", MODELS)
def test_models_page_names_every_model(name: str) -> None:
    page = (DOCS / "models.md").read_text()
    assert f"`{name}`" in page or f"`{name.removeprefix('resnet')}`" in page
