"""The folder of a run: made without races, configuration first, every file at its known place."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel

from bitdial.errors import BitdialError
from bitdial.files import write_atomically

if TYPE_CHECKING:
    from lightning.fabric import Fabric


JOB, JOB_LOCK, JOB_OPTIONS, OUTPUT = "job.json", "job.lock", "options.yaml", "output.log"
"""What a job that trains in the background keeps in the folder of its run, before the run itself begins."""


class RunFolder:
    """Paths of one run's files. Make one with `create` or `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        """The configuration, the first file of a run."""
        self.data = path / "data.json"
        """Which examples it learns from and is tested on."""
        self.checkpoints = path / "checkpoints"
        self.models = path / "models"
        """Folder of the trained networks that are kept, with their records."""
        self.plots = path / "plots"
        self.metrics = path / "metrics.csv"
        self.progress = path / "progress.json"
        """How far it is, for whoever watches."""
        self.results = path / "results.json"
        self.report = path / "report.html"
        """One self-contained HTML file."""

    def load_config(self) -> dict[str, Any]:
        """Return the configuration that the run was started with."""
        with self.config.open(encoding="utf-8") as file:
            loaded = yaml.safe_load(file)
        if not isinstance(loaded, dict):
            raise BitdialError(f"expected a mapping of settings in {self.config}, got {type(loaded).__name__}")
        return loaded

    @classmethod
    def create(
        cls,
        recipe: str,
        config: Mapping[str, Any] | BaseModel,
        *,
        run_dir: str | Path | None = None,
        root: str | Path = "runs",
        fabric: Fabric | None = None,
    ) -> RunFolder:
        """Make the folder of a new run and write its `config.yaml`; with several processes, rank 0 does so for all.

        The folder is ``root/RECIPE-N`` with the first free N, or `run_dir`, which must not exist or be empty.

        Raises:
            BitdialError: the place is a file, holds something already, or cannot be written to.
        """
        place = Path(root) if run_dir is None else Path(run_dir)
        plain = config.model_dump(mode="json") if isinstance(config, BaseModel) else dict(config)

        def make() -> str:
            try:
                run = cls(numbered(place, recipe) if run_dir is None else place)
                run.path.mkdir(parents=True, exist_ok=True)
                if {each.name for each in run.path.iterdir()} - {JOB, JOB_LOCK, JOB_OPTIONS, OUTPUT}:
                    raise BitdialError(
                        f"run_dir {place} already holds files; give a new or empty folder, or go on with that run by "
                        f"--resume {place}"
                    )
                write_atomically(run.config, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
                run.checkpoints.mkdir(exist_ok=True)
                run.plots.mkdir(exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise BitdialError(
                    f"expected a folder at {place}, got a file in its way ({error}); choose another"
                ) from error
            except OSError as error:
                raise BitdialError(
                    f"cannot write a run to {place}: {error.strerror}; choose another --run_dir"
                ) from error
            return str(run.path)

        if fabric is None:
            return cls(Path(make()))
        from bitdial.training.devices import in_first_process  # brings torch

        return cls(Path(in_first_process(fabric, make)))

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Return the folder of an existing run.

        Raises:
            BitdialError: no such folder, or one without `config.yaml`.
        """
        run = cls(Path(path))
        if not run.path.is_dir():
            what = "a file" if run.path.exists() else "nothing"
            raise BitdialError(f"expected the folder of a run at {path}, got {what}; runs are under runs/ by default")
        if not run.config.is_file():
            raise BitdialError(f"{path} is not the folder of a run: it has no config.yaml")
        return run


def numbered(root: Path, recipe: str) -> Path:
    """Make the next free folder for a run of a recipe under a root."""
    root.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        path = root / f"{recipe}-{number}"
        with contextlib.suppress(FileExistsError):
            path.mkdir()  # the one atomic step: of two runs at once, one gets the number
            break
    return path
