"""Recordings of several sensors, in the layout that public sets of vehicles have: index files, a file a segment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitdial.data.dataset import TEST_SHARE, missing_classes
from bitdial.data.label_cache import Known, LabelCache, below
from bitdial.data.options import SignalOptions
from bitdial.data.randomness import check_seed
from bitdial.data.recording_parts import by_recording, leaks, lines_of, listed
from bitdial.data.recording_split import PRESENT, RecordingDataset, RecordingSplit, Segments
from bitdial.data.segments import read_segment, recording_of, transformed
from bitdial.data.vehicles import vehicles
from bitdial.errors import BitdialError, suggest
from bitdial.files import as_text
from bitdial.names import RECORDINGS as RECORDINGS
from bitdial.names import is_recordings as is_recordings

CLASSES = "class_names.txt"
_MOST_CLASSES = 1000  # a label beyond is no class, unless there are as many segments


def load_recordings(
    name: str = "vehicles",
    data_path: str | Path | None = None,
    options: SignalOptions | None = None,
    *,
    seed: int = 0,
    memory_limit: int = 2 << 30,
) -> RecordingDataset:
    """Load recordings cut into segments, of which a file each is listed in `train_index.txt` and others.

    Args:
        name: "recordings", which needs a path; or "vehicles", which is generated into the cache folder without one.
        data_path: the folder of the index files, or a single index file of which a part is to be held out.
        options: which modalities, how transformed; what is held out where there is a single index.
        seed: chooses what is held out.
        memory_limit: bytes up to which segments stay in memory once they are read; beyond, they are read when used.

    Raises:
        BitdialError: an unknown name or modality, or data that is missing, damaged or of the wrong shape; one sentence
            says which.
    """
    options = options or SignalOptions()
    check_seed(seed)
    if not is_recordings(name):
        raise BitdialError(f"expected recordings, {' or '.join(RECORDINGS)}, got {name!r}{suggest(name, RECORDINGS)}")
    plain = name.lower()
    if data_path is None and plain != "vehicles":
        raise BitdialError("the dataset 'recordings' needs data_path: a folder with train_index.txt, or an index file")
    place = vehicles() if data_path is None else Path(data_path).expanduser()
    folder, index = listed(place)
    if len(index) > 1 and options.split_by != "recording":
        raise BitdialError(
            f"signals.split_by is for data with a single index, got it with {len(index)} in {folder}; leave it out"
        )
    paths = [path for part in index.values() for path in part]
    recordings = [recording_of(path) for path in paths]
    cache = LabelCache(folder, options.transform)
    known, read = _look_at(paths, cache, options.transform)
    names = _modalities(known, paths, options.modalities)
    shapes = _shapes(known, paths, names)
    present = torch.tensor([[name in each.shapes for name in names] for each in known])
    segments = Segments(paths, shapes, present, held=Segments.size(shapes, len(paths)) <= memory_limit)
    for row, signals in read.items():
        segments.keep(row, signals)
    parts, start = {}, 0
    for part, own in index.items():
        parts[part] = torch.arange(start, start + len(own))
        start += len(own)
    labels = torch.tensor([each.label for each in known])
    notes = [] if data_path is not None else ["The recordings are generated: scores say nothing of real vehicles."]
    if len(parts) == 1:
        groups = recordings if options.split_by == "recording" else [str(row) for row in range(len(paths))]
        parts = dict(zip(("train", "test"), by_recording(groups, labels, TEST_SHARE, seed, str(place)), strict=True))
    empty = int((~present.any(1)).sum())
    if empty:
        parts = {part: rows[present[rows].any(1)] for part, rows in parts.items()}
        notes.append(f"{empty} segments without any of {', '.join(names)} were left out.")
    for part, rows in parts.items():
        if not len(rows):
            raise BitdialError(
                f"no segment of the part {part} of {place} has any of {', '.join(names)}; choose another"
            )
    if "test" not in parts:
        parts["test"] = parts.pop("val")
    class_names = _class_names(folder, labels, parts, paths)
    low, span = _scale(known, parts["train"], names, shapes, place)
    files = _named(folder, paths, known)
    shared: dict[str, Any] = {
        "num_classes": len(class_names), "mean": low, "std": span, "segments": segments, "transform": options.transform,
        "shapes": {name: _after(shape, options.transform) for name, shape in shapes.items()},
    }  # fmt: skip
    splits = {
        part: RecordingSplit(labels=labels[rows], rows=rows, files=tuple(files[row] for row in rows.tolist()), **shared)
        for part, rows in parts.items()
    }
    data = RecordingDataset(plain, splits["train"], splits["test"], splits.get("val"), class_names)
    notes += [*leaks(recordings, parts), *missing_classes(data, "a segment")]
    return RecordingDataset(plain, data.train, data.test, data.validation, class_names, tuple(notes))


def held_out_recordings(split: RecordingSplit, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Sample numbers of a split that are kept, and those of recordings that are held out.

    Raises:
        BitdialError: there are too few recordings.
    """
    recordings = [recording_of(split.segments.paths[row]) for row in split.rows.tolist()]
    return by_recording(recordings, split.labels.cpu(), fraction, seed, "the training part")


def _look_at(
    paths: Sequence[Path], cache: LabelCache, transform: str
) -> tuple[list[Known], dict[int, dict[str, Tensor]]]:
    """What is known of each file; and the signals of those that had to be read for it."""
    known: list[Known] = []
    read: dict[int, dict[str, Tensor]] = {}
    try:
        for row, path in enumerate(paths):
            found = cache.get(path)
            if found is None:
                segment = read_segment(path)
                found, read[row] = Known.of(segment, transform, path), segment.signals
                cache.put(path, found)
            known.append(found)
    finally:
        cache.save(paths)  # what was read before a bad file need not be read again
    return known, read


def _modalities(known: Sequence[Known], paths: Sequence[Path], wanted: Sequence[str] | None) -> tuple[str, ...]:
    there = dict.fromkeys(name for each in known for name in (*each.shapes, *each.missing))
    names = tuple(dict.fromkeys(wanted or there))
    for name in names:
        if name not in there:
            raise BitdialError(
                f"modalities must be of {', '.join(there) or '(none)'}, got {name!r}{suggest(name, there)}"
            )
    if not names or PRESENT in names:
        raise BitdialError(f"expected modalities with names other than '{PRESENT}' in {paths[0]}, got {list(names)}")
    for each, path in zip(known, paths, strict=True):
        for name in names:
            if name not in each.shapes and name not in each.missing:
                others = " ".join(there for there in names if there in each.shapes) or "OTHERS"
                raise BitdialError(
                    f"{path} has no {name}, expected {', '.join(names)}; set its flag to False where it is missing, or "
                    f"leave it out with --signals.modalities {others}"
                )
    return names


def _shapes(known: Sequence[Known], paths: Sequence[Path], names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    shapes: dict[str, tuple[int, int, int]] = {}
    for name in names:
        first = next((row for row, each in enumerate(known) if name in each.shapes), None)
        if first is None:
            raise BitdialError(f"no segment has {name}, whose flag is False in all, such as {paths[0]}; leave it out")
        for row in range(first, len(known)):
            got = known[row].shapes.get(name, known[first].shapes[name])
            if got != known[first].shapes[name]:
                raise BitdialError(
                    f"expected {name} of one rate and length, {known[first].shapes[name]} as in {paths[first]}, got "
                    f"{got} in {paths[row]}; resample it or cut it alike"
                )
        channels, intervals, samples = known[first].shapes[name]
        shapes[name] = (channels, intervals, samples)
    return shapes


def _after(shape: tuple[int, int, int], transform: str) -> tuple[int, int, int]:
    channels, intervals, samples = transformed(torch.zeros(shape), transform).shape
    return channels, intervals, samples


def _class_names(folder: Path, labels: Tensor, parts: Mapping[str, Tensor], paths: Sequence[Path]) -> tuple[str, ...]:
    """Names of the classes, from their file where there is one; else their numbers, up to the highest trained on."""
    file, train = folder / CLASSES, parts["train"]
    if file.is_file():
        names = tuple(line for line in lines_of(file) if line)
        if not names or len(set(names)) < len(names):
            raise BitdialError(
                f"{file} must name each class once, a line each, got {list(names)[:8]}; mend or remove it"
            )
        count, why = len(names), f"as {file} names {len(names)}"
    else:
        count, why = int(labels[train].max()) + 1, "which the training segments have"
        if count > max(_MOST_CLASSES, len(train)):
            row = int(train[labels[train].argmax()])
            raise BitdialError(f"expected a class in {paths[row]}, got {count - 1}; number the classes from 0")
        names = tuple(map(str, range(count)))
    for part, rows in parts.items():
        strange = rows[labels[rows] >= count]
        if len(strange):
            row = int(strange[0])
            raise BitdialError(
                f"expected a class from 0 to {count - 1}, {why}, got {int(labels[row])} in {paths[row]} ({part}); "
                "number the classes alike"
            )
    return names


def _scale(
    known: Sequence[Known], train: Tensor, names: Sequence[str], shapes: Mapping[str, Any], place: Path
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Minimum and span of each channel over the training part; a constant channel has the span 1."""
    lows: list[float] = []
    spans: list[float] = []
    for name in names:
        bounds = [known[row].extremes[name] for row in train.tolist() if name in known[row].extremes]
        if not bounds:
            raise BitdialError(f"no training segment of {place} has {name}; leave it out of --signals.modalities")
        values = torch.tensor(bounds)
        low, high = values[..., 0].amin(0), values[..., 1].amax(0)
        lows += low.tolist()
        spans += torch.where(high > low, high - low, 1.0).tolist()
    return tuple(lows), tuple(spans)


def _named(folder: Path, paths: Sequence[Path], known: Sequence[Known]) -> list[tuple[str, str]]:
    """A name and a mark for each row; a file that is listed again is numbered."""
    seen: Counter[str] = Counter()
    files = []
    for path, each in zip(paths, known, strict=True):
        name = as_text(below(folder, path))
        seen[name] += 1
        files.append((name if seen[name] == 1 else f"{name}+{seen[name] - 1}", each.mark))
    return files
