"""Confusions: counted while a model is scored, and drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.collections import QuadMesh
from torch import nn

from bitdial.errors import BitdialError
from bitdial.evaluation.confusion import confusion_matrix
from bitdial.evaluation.sweep import evaluate
from bitdial.training import Classification


def batches(classes: int, count: int = 60) -> list[tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(count, classes, generator=draw)
    return [(x, torch.randint(classes, (len(x),), generator=draw)) for x in logits.split(7)]


def test_counts_are_those_of_one_by_one() -> None:
    data = batches(4)
    data[0][1][0] = -100  # counts for nothing
    soft = [(x, nn.functional.one_hot(y.clamp(min=0), 4).float()) for x, y in data[1:]]
    tables: dict[str, torch.Tensor] = {}
    scores = evaluate(nn.Identity(), [data[0], *soft], tables=tables)
    expected = np.zeros((4, 4), dtype=int)
    for x, y in data:
        for row, label in zip(x, y.tolist(), strict=True):
            if label >= 0:
                expected[label, int(row.argmax())] += 1
    assert tables["confusion"].tolist() == expected.tolist()
    assert scores["accuracy"] == pytest.approx(np.trace(expected) / 59)
    assert set(scores) == {"loss", "accuracy"}


def test_of_many_classes_there_is_none() -> None:
    tables: dict[str, torch.Tensor] = {}
    evaluate(nn.Identity(), batches(21), tables=tables)
    assert tables == {}


def test_a_table_under_another_name_is_refused() -> None:
    class Odd(Classification):
        def score(self, model, batch):  # type: ignore[no-untyped-def]
            return {"loss": torch.tensor(1.0), "other": torch.zeros(2, 2)}, 1

    with pytest.raises(BitdialError, match="0-dim tensors, loss is one of them"):
        evaluate(nn.Identity(), batches(3), task=Odd())


def test_the_figure_has_shares_of_rows_and_the_accuracy_of_each_class() -> None:
    tables = [[[8, 2, 0], [0, 5, 5], [0, 0, 0]], [[10, 0, 0], [0, 10, 0], [0, 0, 0]]]
    figure = confusion_matrix(tables, ["cat", "dog", "none"], "mistakes")
    assert figure is not None
    left, right = figure.axes
    (mesh,) = [each for each in left.collections if isinstance(each, QuadMesh)]
    assert np.asarray(mesh.get_array()).tolist() == [[0.9, 0.1, 0], [0, 0.75, 0.25], [0, 0, 0]]
    assert [bar.get_width() for bar in right.patches] == [90, 75, 0]  # type: ignore[attr-defined]
    assert [text.get_text() for text in left.get_yticklabels()] == ["cat", "dog", "none"]
    assert left.yaxis_inverted()
    assert confusion_matrix([[], []], [], "") is None
    unnamed = confusion_matrix(tables, ["cat"], "")
    assert unnamed is not None
    assert [text.get_text() for text in unnamed.axes[0].get_xticklabels()] == ["0", "1", "2"]
