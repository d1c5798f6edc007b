"""Finding trained codecs: of a run or a file, the newest one, or the one that wrote a compressed picture."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from bitdial.errors import BitdialError, suggest
from bitdial.recipes.saved_model import load_saved
from bitdial.training import RunFolder

if TYPE_CHECKING:
    from bitdial.compression.codec import Codec

ROOT = Path("runs")
"""Where runs are looked for that nobody names."""


def load_codec(
    run_or_file: str | os.PathLike[str],
    *,
    arm: str | None = None,
    seed: int | None = None,
    model: nn.Module | None = None,
) -> Codec:
    """The codec of a finished run of ``bitdial train compress``, ready to write and read files.

    Args:
        run_or_file: the folder of the run, or a file of its ``models/``.
        arm: which arm of a run with several lambdas, such as ``lambda_0.013``; the first one if None.
        seed: which seed of it; the first one if None.
        model: the network, for a run to which a script brought its own.

    Raises:
        BitdialError: there is nothing, it is damaged, it is no codec, or its training has not ended.
    """
    path = Path(run_or_file)
    if path.is_dir():
        path = _file_of(RunFolder.open(path), arm, seed)
    elif arm is not None or seed is not None:
        raise BitdialError(f"arm and seed choose among those of a run, got the file {path}; leave them out")
    described, network = load_saved(path, model)
    if described.codec is None:
        raise BitdialError(
            f"{path} is a network that `bitdial train {described.recipe}` trained, expected a codec; name a run of "
            "`bitdial train compress`"
        )
    return described.codec.of_network(network)


def newest_codec(root: Path = ROOT) -> Path:
    """The newest finished run that trained a codec.

    Raises:
        BitdialError: there is none.
    """
    newest = max(_finished(root), default=None, key=lambda found: found[1]["created"])
    if newest is None:
        raise BitdialError(
            f"expected a run of `bitdial train compress` under {root}/, got none that is finished; train one, or name "
            "another place with --model"
        )
    return newest[0]


def codec_that_wrote(model_id: str, root: Path = ROOT) -> Path:
    """The file of the codec of a compressed picture, by the id that the picture has in it.

    Raises:
        BitdialError: no finished run has it.
    """
    for folder, results in _finished(root):
        for network in results.get("networks", []):
            if network.get("model_id") == model_id:
                return folder / "models" / f"{network['name']}-seed{network['seed']}.pt"
    raise BitdialError(
        f"expected the codec {model_id} under {root}/, got no run that trained it; name its run or file with --model"
    )


def _finished(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every finished run of the recipe with its results; one that cannot be read is passed over."""
    for path in sorted(root.glob("*/results.json")) if root.is_dir() else ():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and found.get("recipe") == "compress" and "created" in found:
            yield path.parent, found


def _file_of(run: RunFolder, arm: str | None, seed: int | None) -> Path:
    files = {file.stem: file for file in sorted(run.models.glob("*-seed*.pt"))}
    if not files:
        raise BitdialError(f"{run.path} has no trained network; finish its run first, with --resume {run.path}")
    wanted = [
        file
        for stem, file in files.items()
        if arm in (None, stem.rpartition("-seed")[0]) and str(seed) in ("None", stem.rpartition("-seed")[2])
    ]
    if not wanted:
        asked = "-".join(part for part in (arm, None if seed is None else f"seed{seed}") if part)
        hint = suggest(asked, files) or f"; there are: {', '.join(files)}"
        raise BitdialError(f"{run.path} has no codec {asked}{hint}")
    return wanted[0]
