"""Trains on two processes; run as a program by the test of it, with the folder to write to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger

from bitdial.integrations import CyclicPrecisionCallback
from tests.integrations.test_lightning import SaveAt, fit
from tests.integrations.tiny import SCALED


class WriteSeen(Callback):
    """Writes the widths that a process has seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        (self.folder / f"bits-{trainer.global_rank}").write_text(str(pl_module.seen))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    fit(
        CyclicPrecisionCallback(SCALED),
        SaveAt(9, folder / "9.ckpt"),
        WriteSeen(folder),
        steps=9,
        logger=CSVLogger(folder, name="", version=""),
        log_every_n_steps=1,
        strategy="ddp_spawn",
        devices=2,
        use_distributed_sampler=False,
    )
