"""Which state a run is taken up from: its own newest one, one of its files, or a file from somewhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from bitdial.errors import BitdialError
from bitdial.layers import BitDial
from bitdial.layers.names import named_as
from bitdial.layers.widths import SQUARES, WIDTHS
from bitdial.recipes.recipe import ArmFiles
from bitdial.recipes.saved_model import SavedModel, bits_of, load_weights
from bitdial.training import CheckpointManager, read_checkpoint
from bitdial.training.checkpoint.series import prefix_of
from bitdial.training.optimizer_state import load_optimizer

_MANAGERS_OWN = ("metric", "metric_name", "model_state_dict", "optimizer_state_dict", "epoch")


def set_aside_newer(files: ArmFiles, chosen: Path | None) -> Path | None:
    """Move the checkpoints that are newer than the one to go on from (None: all) into a folder of their own.

    The run goes on another way from there: what it left before must not be taken for its best or newest. Returns the
    folder, or None where nothing was newer. Names of checkpoints sort as they were saved.
    """
    found = sorted(path for path in files.folder.glob("*.pt") if prefix_of(path.name) == files.prefix)
    newer = [path for path in found if chosen is None or path.name > chosen.name]
    if not newer:
        return None
    number = 1
    while (folder := files.folder / f"set-aside-{number}").exists():
        number += 1
    folder.mkdir()
    for path in newer:
        path.rename(folder / path.name)
    return folder


class DescribedCheckpoints:
    """Saves checkpoints that also say which network they are of, and hold the widths of its layers.

    Args:
        manager: where they are saved.
        model: the network.
        described: how it is built.
    """

    def __init__(self, manager: CheckpointManager, model: nn.Module, described: SavedModel) -> None:
        self.manager = manager
        self._dial = BitDial(model) if bits_of(model) else None
        self._described = described.model_dump(mode="json")

    def save_checkpoint(self, *state: Any, **extra: Any) -> Path:
        """As `CheckpointManager.save_checkpoint`, with ``dial`` (part -> layer -> width, or None) and ``network``."""
        dial = None if self._dial is None else self._dial.state_dict()
        return self.manager.save_checkpoint(*state, dial=dial, network=self._described, **extra)

    @property
    def busy(self) -> bool:
        """Whether something is being written."""
        return self.manager.busy

    def wait(self) -> None:
        """Wait for what is being written."""
        self.manager.wait()


@dataclass(frozen=True)
class Foreign:
    """A state from a file that is no part of a run.

    Attributes:
        state: ready for the loop.
        notes: what could not be restored or checked, a sentence each.
    """

    state: dict[str, Any]
    notes: list[str]

    @classmethod
    def read(cls, path: Path, steps_per_epoch: int, *, weights_only: bool = False) -> Foreign:
        """Read a file of this program, an older checkpoint with a model and an optimizer, or a plain state dict.

        Args:
            path: the file.
            steps_per_epoch: to find the place in the schedule of a checkpoint that knows only its epoch.
            weights_only: take nothing but the weights.

        Raises:
            BitdialError: there is no such file, or it is not a checkpoint.
        """
        loaded = read_checkpoint(path, expected=())
        state = {key: value for key, value in loaded.state.items() if key not in _MANAGERS_OWN[:2]}
        if weights_only:
            return cls({"model_state_dict": state["model_state_dict"]}, loaded.notes)
        notes = list(loaded.notes)
        epoch = state.get("epoch")
        if "step" not in state:
            state.pop("scheduler_state_dict", None)  # whatever it counts, it is not the steps of this program
            if isinstance(epoch, int) and epoch >= 0:
                state["step"] = state["applied_steps"] = epoch * steps_per_epoch
                notes.append(
                    f"{path.name} does not say at which step it was made: it is taken up after epoch {epoch}, "
                    f"step {state['step']}, with the learning rate that the schedule has there"
                )
            else:
                state.pop("epoch", None)
        return cls(state, notes)

    def check(self, model: nn.Module, optimizer: Optimizer, path: Path) -> None:
        """Refuse a state that does not fit before anything is written; changes all three.

        Raises:
            BitdialError: the weights or the optimizer's state are of another network.
        """
        weights, own = dict(named_as(model, self.state["model_state_dict"])), model.state_dict()
        # widths are options: they are what this run says, wherever the weights come from
        weights |= {key: own[key] for key in weights.keys() & own if key.rpartition(".")[2] in (*WIDTHS, SQUARES)}
        self.state["model_state_dict"] = weights
        load_weights(model, weights, f"{path} does", "give the --model and --quantizer it was made with")
        if self.state.get("optimizer_state_dict") is not None:
            try:
                load_optimizer(optimizer, self.state["optimizer_state_dict"], self.state.get("optimizer_settings"))
            except BitdialError as error:
                raise BitdialError(
                    f"the optimizer's state in {path} does not fit ({error}); give the --optimizer it was made with, "
                    "or take the weights alone by --start_from"
                ) from error

    def adopt(self, manager: CheckpointManager) -> None:
        """Make it the first checkpoint of a run, so that the run never needs the file again."""
        state: Mapping[str, Any] = self.state
        extra = {key: value for key, value in state.items() if key not in _MANAGERS_OWN}
        extra.setdefault("step", 0)
        manager.save_checkpoint(
            int(state.get("epoch") or 0),
            state["model_state_dict"],
            state.get("optimizer_state_dict"),
            None,
            **extra,
        )
        manager.wait()  # every process loads it next
