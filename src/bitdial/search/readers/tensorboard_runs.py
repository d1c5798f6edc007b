"""Runs of TensorBoard: the scalars of the event files in one folder, and the settings of its hparams plugin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from bitdial.search.readers.event_file import Damage, events
from bitdial.search.readers.found import RUNNING, FoundRun, Metrics, Unread, UnreadableError, natural

_FLOATS = {1: ("float_val", "<f4"), 2: ("double_val", "<f8")}  # tensorflow.DataType: where a tensor keeps its numbers


class _Folder:
    """What the event files of one folder hold, in the order in which they were begun."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.metrics, self.config = Metrics(), dict[str, Any]()
        self.notes, self.step, self.any = list[str](), 0, False
        self.state = "finished"  # unless the hparams plugin says something else: event files have no end
        self.unread = list[Unread]()
        for path in files:
            try:
                self._read(path)
            except OSError as error:
                self.unread.append(Unread(path, f"cannot be opened ({error.strerror})"))
            except Exception as error:  # the other files of the folder are to be read
                self.unread.append(Unread(path, str(error)))

    def _read(self, path: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        damage, any_ = Damage(), False
        with path.open("rb") as file:
            for record in events(file, damage):
                try:
                    event = Event.FromString(record)
                except DecodeError:
                    damage.records += 1
                    continue
                any_ = True
                for value in event.summary.value:
                    self._take(value, event.step)
        if not any_:
            raise UnreadableError("no event in it is whole" if path.stat().st_size else "an empty file")
        self.any = True
        self.notes += damage.notes(path.name)

    def _take(self, value: Any, step: int) -> None:
        kind = value.WhichOneof("value")
        if kind == "simple_value":
            self.metrics.add(value.tag, value.simple_value, step)
        elif value.metadata.plugin_data.plugin_name == "hparams":
            self._settings(value.metadata.plugin_data.content)
            return
        elif kind == "tensor" and (number := _scalar(value.tensor)) is not None:
            self.metrics.add(value.tag, number, step)
        else:
            return
        self.step = max(self.step, step)

    def _settings(self, content: bytes) -> None:
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

        data = HParamsPluginData.FromString(content)
        for name, value in data.session_start_info.hparams.items():
            kind = value.WhichOneof("kind")
            self.config[name] = None if kind in (None, "null_value") else getattr(value, kind)
        if data.HasField("session_start_info"):
            self.state = RUNNING
        if data.HasField("session_end_info"):
            self.state = {0: RUNNING, 1: "finished", 2: "failed", 3: RUNNING}[data.session_end_info.status]

    def take_in(self, below: _Folder) -> None:
        """Make the settings and metrics of a folder one's own."""
        self.config, self.state, below.any = below.config, below.state, False
        self.metrics.last |= below.metrics.last
        self.metrics.odd = below.metrics.odd | self.metrics.odd
        self.notes += below.notes

    def run(self, path: Path, name: str) -> FoundRun:
        """The run that this is."""
        notes = [*self.notes, *self.metrics.notes()]
        return FoundRun(name, "tensorboard", path, self.state, self.config, self.metrics.last, self.step, notes)


def read_tensorboard(
    folders: Mapping[Path, Sequence[Path]], name: Callable[[Path], str]
) -> tuple[list[FoundRun], list[Unread]]:
    """Read folders of event files, each a run; return what could not be read too.

    torch's ``add_hparams`` puts settings and final metrics into a folder of their own below that of the run: where
    there is one, it is joined with the run.

    Args:
        folders: folder -> its event files.
        name: what a run in a folder is called.
    """
    read = {folder: _Folder(sorted(files, key=lambda file: natural(file.name))) for folder, files in folders.items()}
    for place, run in read.items():
        below = [each for path, each in read.items() if path.parent == place and each.config]
        if len(below) == 1 and run.metrics.last and not run.config:
            run.take_in(below[0])
    found = [folder.run(place, name(place)) for place, folder in read.items() if folder.any]
    return found, [unread for folder in read.values() for unread in folder.unread]


def _scalar(tensor: Any) -> float | None:
    """The number in a tensor of one, None for text and pictures."""
    if tensor.dtype not in _FLOATS or any(dim.size != 1 for dim in tensor.tensor_shape.dim):
        return None
    field, form = _FLOATS[tensor.dtype]
    values = np.frombuffer(tensor.tensor_content, form) if tensor.tensor_content else getattr(tensor, field)
    return float(values[0]) if len(values) == 1 else None
