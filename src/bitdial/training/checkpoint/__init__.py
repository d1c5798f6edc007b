"""Checkpoints that survive a kill, a full disk and a flipped byte, and that never delete what is worth keeping."""

from bitdial.training.checkpoint.manager import CheckpointManager
from bitdial.training.checkpoint.reading import LoadedCheckpoint, read_checkpoint, resolved
from bitdial.training.checkpoint.sealing import DamagedCheckpoint

__all__ = ["CheckpointManager", "DamagedCheckpoint", "LoadedCheckpoint", "read_checkpoint", "resolved"]
