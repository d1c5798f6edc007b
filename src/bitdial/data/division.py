"""Dividing the examples of today as they were divided before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from bitdial.data.dataset import LabelledSplit, Split
from bitdial.data.fingerprint import Fingerprint, things
from bitdial.data.images import FolderSplit
from bitdial.data.recording_split import RecordingSplit
from bitdial.errors import BitdialError


def divided_as(before: Fingerprint, now: Fingerprint, splits: Mapping[str, LabelledSplit]) -> dict[str, LabelledSplit]:
    """Divide splits as they were divided before: same parts, order, class numbers and normalisation.

    Examples that were unknown are left out, those that are gone are missed. So are those with the content that an
    example of another part had: files may have been numbered anew.

    Args:
        before: the division that is wanted.
        now: of `splits`, in terms of `before`.
        splits: by part.

    Raises:
        BitdialError: nothing is left of a part, an example has a class that was unknown, or images another shape.
    """
    if now.shape != before.shape:
        raise BitdialError(
            f"expected {things(now.shape)} of {'x'.join(map(str, before.shape))}, which the network was built for, got "
            f"{'x'.join(map(str, now.shape))}; put the data back, or start a new run"
        )
    pool = _joined(list(splits.values()))
    place = {name: number for number, name in enumerate(now.examples())}
    numbers = [before.class_names.index(name) if name in before.class_names else -1 for name in now.class_names]
    pool = replace(
        pool,
        labels=torch.tensor(numbers, device=pool.labels.device)[pool.labels],
        num_classes=len(before.class_names),
        mean=tuple(before.mean),
        std=tuple(before.std),
    )
    divided = {}
    marks = {name: mark for name, (_, mark) in now.examples().items()}
    parts = {part: examples for part, examples in before.parts.items() if isinstance(examples, dict)}
    home = {mark: part for part, examples in parts.items() for _, mark in examples.values() if "-" in mark}
    for part, examples in parts.items():
        left = [
            name
            for name, (_, mark) in examples.items()
            if name in place and (marks[name] == mark or home.get(marks[name], part) == part)
        ]
        chosen = torch.tensor([place[name] for name in left], dtype=torch.int64)
        if not len(chosen):
            raise BitdialError(
                f"nothing is left of the {len(examples)} examples of the part '{part}'; put the data back"
            )
        divided[part] = pool.subset(chosen)
        strange = divided[part].labels < 0
        if bool(strange.any()):
            raise BitdialError(
                f"{int(strange.sum())} examples of the part '{part}' are of a class that the network does not know "
                f"(it knows {', '.join(before.class_names[:10])}); start a new run"
            )
    return divided


def of_each_class(labels: torch.Tensor, count: int) -> torch.Tensor:
    """Number the examples that stay where `count` may: the first of every class, the second ones, and so on.

    Returns:
        Their numbers, sorted.
    """
    order = torch.argsort(labels, stable=True)
    sizes = torch.bincount(labels[order])
    starts = (sizes.cumsum(0) - sizes)[labels[order]]
    turn = torch.empty_like(order)
    turn[order] = torch.arange(len(labels), device=labels.device) - starts
    return torch.argsort(turn, stable=True)[:count].sort().values


def _joined(splits: Sequence[LabelledSplit]) -> LabelledSplit:
    """One split of the examples of several."""
    labels = torch.cat([split.labels for split in splits])
    files = tuple(each for split in splits for each in split.files or ()) or None
    if isinstance(splits[0], RecordingSplit):
        rows = torch.cat([split.rows for split in splits if isinstance(split, RecordingSplit)])
        return replace(splits[0], labels=labels, files=files, rows=rows)
    if all(isinstance(split, Split) for split in splits):
        images = torch.cat([split.images for split in splits if isinstance(split, Split)])
        return replace(splits[0], labels=labels, files=files, images=images)  # type: ignore[call-arg]
    paths = tuple(path for split in splits if isinstance(split, FolderSplit) for path in split.paths)
    return replace(splits[0], labels=labels, files=files, paths=paths)  # type: ignore[call-arg]
