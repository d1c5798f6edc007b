"""Reading what another run, another time or another program saved, and saying what could not be restored."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from bitdial.errors import BitdialError, suggest
from bitdial.layers.names import without_wrappers
from bitdial.training.checkpoint.sealing import DamagedCheckpoint, verify
from bitdial.training.checkpoint.series import Record, Registry, prefix_of
from bitdial.training.foreign_scores import OF_THE_LOOP

logger = logging.getLogger("bitdial.training.checkpoint")

MODEL_KEYS = ("model_state_dict", "state_dict", "model_state", "model", "net", "weights")
OPTIMIZER_KEYS = ("optimizer_state_dict", "optimizer_state", "optimizer")
_NAMED = re.compile(r"(?:(?P<prefix>.+)-)?(?P<which>best|last)\.pt")
WITHOUT = {
    "optimizer_state_dict": "the optimizer starts afresh (momentum and step counts are zero)",
    "scheduler_state_dict": "the learning-rate schedule starts from its beginning",
    "epoch": "the epochs are counted from the beginning",
    "rng_state": "the random numbers differ from those of an uninterrupted run",
}


@dataclass(frozen=True)
class LoadedCheckpoint:
    """What was loaded, from where, and what the user should know about it."""

    path: Path
    state: dict[str, Any] = field(repr=False)
    """The content of the file; the model is under ``"model_state_dict"``."""
    notes: list[str] = field(default_factory=list)
    """One sentence each: a damaged file that was passed over, a part that is missing."""


def read_checkpoint(
    path: str | os.PathLike[str],
    *,
    map_location: Any = "cpu",
    prefix: str | None = None,
    expected: Sequence[str] = tuple(WITHOUT),
) -> LoadedCheckpoint:
    """Load the state of a run from whatever the user has.

    Args:
        path: a run folder, its ``checkpoints`` folder (the newest sound checkpoint is taken), a file of
            `CheckpointManager`, an older checkpoint with only a model and an optimizer, or a plain state dict.
        map_location: as in ``torch.load``.
        prefix: which series, where a folder holds several.
        expected: the parts that the caller would restore; each one that is missing gets a note.

    Returns:
        The state, always with the model under ``"model_state_dict"`` (and an optimizer, if there is one, under
        ``"optimizer_state_dict"``), whatever the file called them. ``module.`` and ``_orig_mod.`` in front of every
        parameter name (left by DataParallel, ``torch.compile`` and averages) are taken off, with a note. A checkpoint
        of the training loop keeps its names: they are those of the network.

    Raises:
        BitdialError: nothing there, or nothing that is a checkpoint.
        DamagedCheckpoint: the file is cut short or altered.
    """
    path = resolved(path)
    if path.is_dir():
        loaded = _read_folder(path, prefix, map_location)
    elif path.exists():
        loaded = load_file(path, map_location)
    else:
        near = suggest(path.name, (entry.name for entry in path.parent.iterdir())) if path.parent.is_dir() else ""
        raise BitdialError(f"no checkpoint at {path}: expected a file, a run folder or a checkpoints folder{near}")
    state, notes = _normalise(loaded.path, loaded.state)
    notes = [*loaded.notes, *notes]
    for key in expected:
        if state.get(key) is None:
            notes.append(f"{loaded.path.name} has no {key}: {WITHOUT.get(key, 'it is not restored')}")
    return LoadedCheckpoint(loaded.path, state, notes)


def resolved(path: str | os.PathLike[str]) -> Path:
    """Return the file that ``best.pt`` or ``last.pt`` of a folder of checkpoints stands for; any other path as it is.

    The links of these names, where the disk has links, are for other programs: here it is looked which file is sound,
    so that the names work everywhere and after every kill. A file of that name that is no link is itself. ``last.pt``
    is the newest sound checkpoint, ``best.pt`` the one of best metric (the newest, where none has a finite one). In a
    folder of several series they are ``PREFIX-last.pt``.

    Raises:
        BitdialError: the folder holds several series, or nothing sound.
    """
    path = Path(path)
    match = _NAMED.fullmatch(path.name)
    if match is None or (path.exists() and not path.is_symlink()) or not path.parent.is_dir():
        return path
    series = sorted(filter(None, {prefix_of(entry.name) for entry in path.parent.iterdir()}))
    wanted = [prefix for prefix in series if match["prefix"] in (None, prefix)]
    if not wanted:
        return path
    if len(wanted) > 1:
        names = ", ".join(f"{prefix}-{path.name}" for prefix in wanted)
        raise BitdialError(f"{path.parent} holds several series of checkpoints, expected one of {names}, got {path}")
    registry = Registry(path.parent, wanted[0])
    records = list(reversed(registry.look()))
    if match["which"] == "best" and (ranked := [record for record in records if record.ranked]):
        sign = 1 if ranked[0].higher_is_better else -1
        records = sorted(ranked, key=lambda record: (-sign * (record.metric or 0.0), record.number))
    for record in records:
        try:
            verify(record.path)
        except DamagedCheckpoint as error:
            registry.mark_damaged(error)
            logger.warning("%s is damaged (%s); %s passes it over", record.path.name, error.reason, path.name)
            continue
        return record.path
    raise BitdialError(f"no sound checkpoint in {path.parent} for {path.name} to stand for; start the run afresh")


def newest_sound(registry: Registry, candidates: Iterable[Record], map_location: Any, wanted: str) -> LoadedCheckpoint:
    """Load the first of `candidates` that is sound; each damaged one is struck from the registry, logged and noted.

    Where none is sound, the `BitdialError` names what was tried.
    """
    # Without a readable header nothing tells how good the file was, so for the best every such file is worth a note.
    damaged = list(reversed(registry.damaged.items()))
    for record in candidates:
        try:
            state = load_file(record.path, map_location).state
        except DamagedCheckpoint as error:
            registry.mark_damaged(error)
            damaged.append((error.path.name, error.reason))
            continue
        except FileNotFoundError:
            continue
        if wanted == "newest":
            damaged = [(name, why) for name, why in damaged if name > record.path.name]
        notes = [f"{name} is damaged ({why}); took {record.path.name} instead" for name, why in sorted(damaged)]
        for note in notes:
            logger.warning("%s", note)
        return LoadedCheckpoint(record.path, state, notes)
    tried = "".join(f"; {name} is damaged ({why})" for name, why in sorted(damaged))
    raise BitdialError(
        f"no sound checkpoint named {registry.prefix}-*.pt in {registry.folder}{tried}; "
        "give another folder or file, or start the run afresh"
    )


def _read_folder(folder: Path, prefix: str | None, map_location: Any) -> LoadedCheckpoint:
    folders = [folder, folder / "checkpoints"]
    found = [
        (place, series)
        for place in folders
        if place.is_dir()
        for series in sorted(filter(None, {prefix_of(entry.name) for entry in place.iterdir()}))
        if prefix in (None, series)
    ]
    if not found:
        files = sorted(entry.name for entry in folder.iterdir() if entry.suffix in (".pt", ".pth", ".ckpt", ".bin"))
        hint = f"name one of its files: {', '.join(files[:5])}" if files else "give a run folder or a file"
        series_text = "" if prefix is None else f" of the series '{prefix}'"
        raise BitdialError(f"no checkpoint{series_text} in {folder} nor in its folder 'checkpoints'; {hint}")
    if len(found) > 1:
        names = ", ".join(f"'{series}'" for _, series in found)
        raise BitdialError(f"{folder} holds several series of checkpoints ({names}); name a file, or say which series")
    registry = Registry(*found[0])
    return newest_sound(registry, reversed(registry.look()), map_location, "newest")


def load_file(path: Path, map_location: Any) -> LoadedCheckpoint:
    """Verify one file byte for byte, where it carries a checksum, and load it.

    Raises:
        DamagedCheckpoint: it is cut short or altered.
        BitdialError: it is not a checkpoint, or holds objects that cannot be loaded safely.
        FileNotFoundError: it is not there.
    """
    try:
        header = verify(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BitdialError(
            f"cannot read checkpoint {path}: {error.strerror or error}; check path and rights"
        ) from error
    notes = [] if header is not None else [f"{path.name} carries no checksum, so it could not be checked for damage"]
    try:
        state = torch.load(path, map_location=map_location, weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        raise BitdialError(_why_not(path, error)) from error
    if not isinstance(state, dict):
        raise BitdialError(f"{path} holds a {type(state).__name__}, expected a dict of states; is it a checkpoint?")
    return LoadedCheckpoint(path, state, notes)


def _why_not(path: Path, error: Exception) -> str:
    with contextlib.suppress(Exception):
        if isinstance(error, pickle.UnpicklingError) and (unsafe := get_unsafe_globals_in_checkpoint(path)):
            return (
                f"{path} holds objects that only unsafe loading would give ({', '.join(sorted(unsafe))}); if you trust "
                "it, save it again with plain values, or allow these types with torch.serialization.add_safe_globals"
            )
    if isinstance(error, RuntimeError) and "map_location" in str(error):
        return f"{path} holds tensors of a device that is not here; load it with map_location='cpu'"
    lines = str(error).strip().splitlines()
    why = lines[0][:200] if lines else type(error).__name__
    if why.startswith("Weights only load failed"):  # what torch goes on to advise is to load it unsafely
        why = "neither a torch file nor a safetensors file, or damaged"
    return f"{path} is not a checkpoint that torch.load can read ({why})"


def _normalise(path: Path, state: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    notes: list[str] = []
    if state and all(isinstance(value, torch.Tensor) for value in state.values()):
        notes.append(f"{path.name} is a plain state dict: only the model's weights are restored")
        state = {"model_state_dict": state}
    else:
        state = dict(state)
        for wanted, keys in (("model_state_dict", MODEL_KEYS), ("optimizer_state_dict", OPTIMIZER_KEYS)):
            key = next((key for key in keys if isinstance(state.get(key), Mapping)), None)
            if key is not None and key != wanted:
                state[wanted] = state.pop(key)
    if "model_state_dict" not in state:
        got = ", ".join(map(str, list(state)[:8])) or "none"
        raise BitdialError(
            f"{path} has no model: expected 'model_state_dict' or a plain state dict, got the keys {got}"
        )
    plain, taken = without_wrappers(state["model_state_dict"])
    if taken and OF_THE_LOOP not in state:  # one of the loop holds plain names
        state["model_state_dict"] = plain
        notes.append(f"took '{taken}' off the parameter names of {path.name}")
    return state, notes
