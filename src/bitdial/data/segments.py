"""One segment of a recording of several sensors: its file, read and written; the signals cut and transformed."""

from __future__ import annotations

import pickle
import warnings
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitdial.data.options import Transform as Transform
from bitdial.errors import BitdialError

_GREATEST = 2**31


@dataclass(frozen=True)
class Segment:
    """What a file holds.

    Attributes:
        label: its class.
        signals: modality -> float32 `[channels, intervals, samples]`, of those that are there.
        missing: modalities whose flag is false.
    """

    label: int
    signals: dict[str, Tensor]
    missing: tuple[str, ...] = ()

    @property
    def mark(self) -> str:
        """What tells its content from another: values and a sum over them, whatever the form of the file."""
        total, size = zlib.crc32(repr((self.label, sorted(self.missing))).encode()), 0
        for name, signal in sorted(self.signals.items()):
            total = zlib.crc32(signal.numpy().tobytes(), zlib.crc32(name.encode(), total))
            size += signal.numel()
        return f"{size}-{total:08x}"


def recording_of(path: Path) -> str:
    """The recording that a segment's file belongs to: FOLDER of `FOLDER_LOCATION_ID.pt`.

    Raises:
        BitdialError: the file is named otherwise.
    """
    parts = path.stem.rsplit("_", 2)
    if path.suffix != ".pt" or len(parts) != 3 or not all(parts):
        raise BitdialError(
            f"expected a segment named FOLDER_LOCATION_ID.pt, got {path}: its name says which recording it belongs to; "
            "rename it"
        )
    return parts[0]


def read_segment(path: Path) -> Segment:
    """Read a file `{"label": ..., "flag": {location: {modality: bool}}, "data": {location: {modality: tensor}}}`.

    The label is a whole number, or a mapping with one at "vehicle_type". Modalities are called as in the file, or
    `LOCATION.MODALITY` where it holds several locations.

    Raises:
        BitdialError: the file cannot be read, is of another form, or holds NaN or infinity.
    """
    content = _load(path)
    if not isinstance(content, Mapping) or not {"label", "data"} <= content.keys():
        got = f"the keys {', '.join(map(str, content))}" if isinstance(content, Mapping) else type(content).__name__
        raise BitdialError(f"expected label, flag and data in {path}, got {got}; write it in the layout of the others")
    data, flags = content["data"], content.get("flag") or {}
    for name, found in (("data", data), ("flag", flags)):
        if not isinstance(found, Mapping) or not all(isinstance(each, Mapping) for each in found.values()):
            raise BitdialError(
                f"expected {name} of {path} as {{location: {{modality: ...}}}}, got something else; write it in the "
                "layout of the others"
            )
    signals, missing = {}, []
    locations = list(dict.fromkeys([*data, *flags]))
    for location in locations:
        own, there = data.get(location, {}), flags.get(location, {})
        for modality in dict.fromkeys([*own, *there]):
            name = str(modality) if len(locations) == 1 else f"{location}.{modality}"
            if modality in there and not bool(there[modality]):
                missing.append(name)
            elif modality in own:
                signals[name] = _signal(own[modality], name, path)
    return Segment(_label(content["label"], path), signals, tuple(missing))


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of strange files, which are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BitdialError(
            f"{path} is damaged, or holds Python objects, which are not opened as they could run anything; save "
            "tensors, numbers and texts alone"
        ) from error
    except IsADirectoryError as error:
        raise BitdialError(
            f"expected the file of a segment at {path}, got a folder; put its file into the index"
        ) from error
    except Exception as error:  # torch raises whatever a strange file makes it stumble over
        reason = " ".join(str(error).split())[:120]
        raise BitdialError(
            f"cannot read {path}, which is damaged or no file of torch.save ({reason}); write it again, or take it out "
            "of the index"
        ) from error


def _label(given: Any, path: Path) -> int:
    value = given
    if isinstance(value, Mapping):
        if "vehicle_type" not in value:
            raise BitdialError(
                f"expected vehicle_type in the label of {path}, got {', '.join(map(str, value))}; add it"
            )
        value = value["vehicle_type"]
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or value % 1:
        shown = " ".join(repr(value).split())
        raise BitdialError(f"expected a class as a whole number from 0 in {path}, got {shown:.60}; number the classes")
    if not 0 <= value < _GREATEST:
        raise BitdialError(f"expected a class from 0 up in {path}, got {value:g}; number the classes from 0")
    return int(value)


def _signal(given: Any, name: str, path: Path) -> Tensor:
    if not isinstance(given, Tensor) or given.is_complex() or given.layout != torch.strided:
        kind = str(given.dtype) if isinstance(given, Tensor) else type(given).__name__
        raise BitdialError(f"expected {name} of {path} as a tensor of real numbers, got {kind}; convert it")
    if given.ndim != 3 or not given.numel():
        raise BitdialError(
            f"expected {name} of {path} as [channels, intervals, samples], got {list(given.shape)}; reshape it"
        )
    signal = given.to(torch.float32).contiguous()
    if not bool(signal.isfinite().all()):
        where = (~signal.isfinite()).nonzero()
        raise BitdialError(
            f"{name} of {path} holds {len(where)} values that are NaN or infinite, the first at {where[0].tolist()}; "
            "mend it, or set its flag to False"
        )
    return signal


def transformed(signals: Tensor, transform: str) -> Tensor:
    """Signals `[..., C, intervals, samples]` as a network takes them.

    "fft": the spectrum of each interval, all bins, as real and imaginary parts of each channel in turn,
    `[..., 2C, intervals, samples]`; "rfft": only its first `samples // 2 + 1` bins; "none": nothing.
    """
    if transform == "none":
        return signals
    spectrum = torch.fft.fft(signals) if transform == "fft" else torch.fft.rfft(signals)
    return torch.view_as_real(spectrum).movedim(-1, -3).flatten(-4, -3)


def cut(signal: Tensor, rate: float, *, window: float = 2.0, intervals: int = 10, name: str = "signal") -> Tensor:
    """Cut a recording into segments that do not overlap; what is left at its end is dropped.

    Args:
        signal: `[channels, samples]`, finite.
        rate: samples in a second.
        window: seconds of a segment.
        intervals: parts of a segment, each of a whole number of samples.
        name: of the signal, for messages.

    Returns:
        `[segments, channels, intervals, samples of an interval]`.

    Raises:
        BitdialError: the window is longer than the recording or does not fit the rate, or a value is not finite.
    """
    if signal.ndim != 2:
        raise BitdialError(f"expected {name} as [channels, samples], got {list(signal.shape)}; reshape it")
    if not bool(signal.isfinite().all()):
        at = (~signal.isfinite()).nonzero()[0].tolist()
        raise BitdialError(f"{name} must be finite, got {signal[tuple(at)]:g} at {at}; mend it before it is cut")
    samples = window * rate / max(intervals, 1)
    if not (window > 0 and rate > 0 and intervals >= 1) or abs(samples - round(samples)) > 1e-6 or round(samples) < 1:
        raise BitdialError(
            f"expected a window of a whole number of samples in each of its intervals, got {window:g} s at {rate:g} Hz "
            f"in {intervals} intervals ({samples:g} samples in each) for {name}; choose another window"
        )
    size = round(samples)
    count = signal.shape[1] // (size * intervals)
    if not count:
        raise BitdialError(
            f"the window must not be longer than the recording, got {window:g} s and {signal.shape[1] / rate:g} s of "
            f"{name}; give a shorter window or a longer recording"
        )
    whole = signal[:, : count * size * intervals].reshape(signal.shape[0], count, intervals, size)
    return whole.transpose(0, 1).contiguous()


def write_recording(
    folder: Path,
    recording: str,
    location: str,
    signals: Mapping[str, tuple[Tensor, float]],
    labels: int | Sequence[int | Mapping[str, float]],
    *,
    window: float = 2.0,
    intervals: int = 10,
    missing: Mapping[str, Collection[int]] | None = None,
) -> list[Path]:
    """Cut a recording and write its segments, `RECORDING_LOCATION_0.pt` and so on.

    Args:
        folder: where the files go; it must be there.
        recording: its name, which tells it from every other.
        location: of the sensors; without "_".
        signals: modality -> `[channels, samples]` and its rate in Hz.
        labels: the class, or for each segment the class or `{"vehicle_type": ..., "distance": ..., "speed": ...}`.
        window, intervals: see `cut`.
        missing: modality -> numbers of the segments in which it is missing.

    Returns:
        The files, in order.

    Raises:
        BitdialError: see `cut`; or the signals differ in length. Nothing is written then.
    """
    if not signals:
        raise BitdialError(f"expected at least one signal of {recording}, got none; give {{'audio': (samples, rate)}}")
    recording_of(Path(f"{recording}_{location}_0.pt"))
    if "_" in location:
        raise BitdialError(f"a location must not hold '_', got {location!r}: files are named FOLDER_LOCATION_ID.pt")
    parts = {
        name: cut(signal, rate, window=window, intervals=intervals, name=f"{name} of {recording}")
        for name, (signal, rate) in signals.items()
    }
    counts = {name: len(part) for name, part in parts.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {signal.shape[1] / rate:g} s" for name, (signal, rate) in signals.items())
        raise BitdialError(f"expected signals of one length in {recording}, got {told}; check their rates")
    count = next(iter(counts.values()))
    each = [labels] * count if isinstance(labels, int) else list(labels)
    if len(each) != count:
        raise BitdialError(f"expected a label for each of the {count} segments of {recording}, got {len(each)}")
    paths = []
    for number, label in enumerate(each):
        flags = {name: number not in (missing or {}).get(name, ()) for name in parts}
        # Copied, as a view would be saved with all of the recording; what is missing is zero.
        data = {name: part[number] * flags[name] for name, part in parts.items()}
        given: Any = label
        given = {k: torch.tensor(v) for k, v in given.items()} if isinstance(given, Mapping) else torch.tensor(given)
        content = {"label": given, "flag": {location: flags}, "data": {location: data}}
        path = folder / f"{recording}_{location}_{number}.pt"
        torch.save(content, path)
        paths.append(path)
    return paths
