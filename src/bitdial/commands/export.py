"""The command ``bitdial export RUN``: a trained network as a file to ship."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from bitdial.configuration import Config, load_config
from bitdial.errors import BitdialError, suggest
from bitdial.files import write_atomically
from bitdial.lazy import loading_torch
from bitdial.recipes import find_recipe, recipe_of
from bitdial.training.run_folder import RunFolder

if TYPE_CHECKING:
    from torch import nn

    from bitdial.recipes.saved_model import SavedModel

PROG = "bitdial export"


class ExportConfig(Config):
    """Write a trained network as a file to ship."""

    run: Path
    """Folder of a finished run, or the file of a trained network in it."""
    format: Literal["packed", "onnx"] = "packed"
    """packed: one safetensors file with the weights in their real bits; onnx: a file for ONNX Runtime, OpenVINO and
    others, with the proof that it computes the same."""
    output: Path | None = None
    """The file to write; by default it goes into the run's folder."""
    encoding: Literal["base3", "2bit"] = "base3"
    """How ternary weights are packed: five in a byte (smallest), or two bits each (quickest to unpack)."""
    experiment: str | None = None
    """Which experiment of a run that has several; by default the first with quantized weights."""
    seed: int | None = Field(None, ge=0)
    """Which of its seeds; by default the first."""
    style: Literal["qdq", "native", "qonnx"] = "qdq"
    """Of ONNX: qdq: 8-bit codes that runtimes compute with in whole numbers; native: the smallest file, int4 and int2,
    computed in floating point; qonnx: for tools of that convention."""
    form: Literal["exact", "fast"] = "exact"
    """Of style qdq: exact: as trained; fast: what lies between the layers on grids too, which ONNX Runtime fuses. Both
    are timed and compared."""
    calibration: int = Field(512, ge=1)
    """Of ONNX: training examples that give ranges where training left none, and for the fast form."""
    test_examples: int = Field(2000, ge=1)
    """Of ONNX: test examples on which file and network are compared, at most."""


def run(argv: list[str]) -> int:
    """Write the file, check that it loads back bit for bit, print sizes; return the exit status."""
    options = load_config(ExportConfig, {}, argv, prog=PROG, positional="run")
    _check_there(options.run)
    _check_format(options)
    loading_torch()
    if options.format == "onnx":
        from bitdial.commands.export_onnx_run import write_onnx

        return write_onnx(options)
    from bitdial.export import packed_sizes
    from bitdial.export.packed import load_packed, packed_bytes
    from bitdial.recipes.run import say
    from bitdial.recipes.saved_model import load_saved
    from bitdial.terminal import terminal

    name, folder, file = find_network(options)
    described, model = load_saved(file)
    if not described.is_quantized:
        raise BitdialError(f"expected a quantized network to pack, got {name} of {folder}, which is unquantized")
    output = options.output or folder / f"{name}-{_contents(described, options.encoding)}.safetensors"
    if output.is_dir():
        raise BitdialError(f"output must be a file, got the folder {output}; e.g. {output / f'{name}.safetensors'}")
    told = described.packed()
    write_atomically(output, packed_bytes(model, options.encoding, told))
    inputs, which = _inputs(described, file)
    _check_equal(model, load_packed(output, described.build()).eval(), inputs, output)
    console = terminal()
    for note in described.notes():
        say(note)
    console.print(
        f"{name} of {folder}, {_contents(described, options.encoding)}, loads back bit for bit (outputs of {which} "
        f"compared): {output}",
        soft_wrap=True,
    )
    console.print(packed_sizes(model, options.encoding, description=told).table(), soft_wrap=True)
    return 0


def _contents(described: SavedModel, encoding: str) -> str:
    """What a file of the network holds, for its name: "base3" or "ternary-2bit" of ternary weights, "4bit", "mixed"."""
    widths = set(described.bits.values())
    if len(widths) > 1:
        return "mixed"
    from bitdial.numerics import TERNARY_BITS

    width = widths.pop()
    if math.isclose(width, TERNARY_BITS, rel_tol=1e-6):  # in float32
        return encoding if encoding == "base3" else f"ternary-{encoding}"
    return f"{width:g}bit"


def find_network(options: ExportConfig) -> tuple[str, Path, Path]:
    """The name of the network that is meant, the folder of its run, and its file.

    Raises:
        BitdialError: no such run, no trained network in it, or no such experiment or seed.
    """
    path = options.run
    if path.is_file():
        return path.stem, path.parent, path
    _check_there(path)
    from bitdial.recipes.saved_model import first_network, read_saved, saved_networks

    trained = saved_networks(RunFolder(path))
    first_network(RunFolder(path))  # says so, if there is none
    found = {name: file for name, file in trained.items() if _is_meant(name, options)}
    if not found:
        raise BitdialError(
            f"expected experiment and seed of a trained network of {path} ({', '.join(trained)}), got "
            f"{options.experiment or 'any'}-seed{'?' if options.seed is None else options.seed}; choose one of them"
        )
    name = next((name for name, file in found.items() if read_saved(file)[0].is_quantized), next(iter(found)))
    return name, path, found[name]


def _check_there(path: Path) -> None:
    if not path.exists():
        near = suggest(path.name, (each.name for each in path.parent.iterdir())) if path.parent.is_dir() else ""
        raise BitdialError(f"expected the folder of a finished run at {path}, got nothing{near or '; check the path'}")


def _check_format(options: ExportConfig) -> None:
    """Refuse options of another format, which would do nothing."""
    own = {"packed": ("encoding",), "onnx": ("style", "form", "calibration", "test_examples")}
    for kind, names in own.items():
        given = [name for name in names if kind != options.format and name in options.model_fields_set]
        if given:
            raise BitdialError(
                f"--{given[0]} is an option of --format {kind}, got it with --format {options.format}; add --format "
                f"{kind}, or leave it out"
            )
    if options.format == "onnx" and options.output is not None:
        if options.output.is_dir():
            place = options.output / "model.onnx"
            raise BitdialError(f"output must be a file, got the folder {options.output}; e.g. {place}")
        if options.output.suffix != ".onnx":
            raise BitdialError(f"output must end with .onnx, got {options.output}; programs know these files by that")
    if options.form == "fast" and options.style != "qdq":
        raise BitdialError(f"--form fast is one of --style qdq, got --style {options.style}; leave one of them out")


def _is_meant(name: str, options: ExportConfig) -> bool:
    experiment, _, seed = name.rpartition("-seed")
    return options.experiment in (None, experiment) and (options.seed is None or str(options.seed) == seed)


def _inputs(described: SavedModel, file: Path) -> tuple[Any, str]:
    """What the network was tested on, where the run's data is at hand, else noise of its shape."""
    from bitdial.recipes.start import open_run

    things = "images" if described.signals is None else "segments"
    try:
        folder = RunFolder.open(next(each for each in file.parents if (each / "config.yaml").is_file()))
        run = open_run(find_recipe(recipe_of(folder.load_config())), folder)
        inputs, labels = next(iter(run.work.loaders(described.seed).test))
        return inputs, f"{len(labels)} test {things}"
    except (BitdialError, OSError, StopIteration):  # the data has moved; the network need not wait for it
        return described.noise(16), f"16 {things} of noise, as the run's data is not at hand,"


def _check_equal(saved: nn.Module, loaded: nn.Module, inputs: Any, path: Path) -> None:
    import torch

    with torch.no_grad():
        same = torch.allclose(saved(inputs), loaded(inputs), rtol=0, atol=0, equal_nan=True)
    if not same:
        raise BitdialError(f"{path} did not load back bit for bit, expected equal outputs; please report this")
