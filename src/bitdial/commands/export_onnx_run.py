"""What ``bitdial export RUN --format onnx`` does once its options are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from bitdial.commands.export import ExportConfig, find_network
from bitdial.errors import BitdialError
from bitdial.export.onnx import OnnxFile, export_onnx
from bitdial.export.onnx.parity import Agreement
from bitdial.numerics import TERNARY_BITS, UNQUANTIZED
from bitdial.recipes import find_recipe, recipe_of
from bitdial.recipes.recipe import Loaders
from bitdial.recipes.saved_model import SavedModel, load_saved
from bitdial.recipes.start import open_run
from bitdial.terminal import terminal
from bitdial.training import RunFolder
from bitdial.trees import map_tensors, tensors

_BATCH = 32  # examples in the example that the graph is traced with


def write_onnx(options: ExportConfig) -> int:
    """Write the file or, of a codec, the files of its two transforms; return the exit status."""
    name, folder, path = find_network(options)
    described, model = load_saved(path)
    if not described.is_quantized:
        raise BitdialError(f"expected a quantized network, got {name} of {folder}, which is unquantized")
    output = options.output or folder / f"{name}-{options.style}{'-fast' * (options.form == 'fast')}.onnx"
    loaders = _loaders(described, path)
    about = {"mean": described.mean, "std": described.std, "classes": described.class_names}
    if described.codec is not None:
        return _write_codec(options, f"{name} of {folder}", output, model, described, loaders)
    calibration = list(_taken(loaders.recalibration, options.calibration)) if loaders else []
    test = list(_taken(loaders.test, options.test_examples)) if loaders else []
    noise = described.noise(_BATCH)
    example = _first((test[0][0] if test else noise), _BATCH)
    written = export_onnx(
        model,
        output,
        example,
        style=options.style,
        form=options.form,
        calibration=calibration or [noise],
        test=[inputs for inputs, _ in test] or None,
        about=about,
    )
    console = terminal()
    told = (
        f"{sum(len(_one(i)) for i, _ in test):,} test examples" if test else "noise, as the run's data is not at hand"
    )
    _tell(written, f"{name} of {folder}", told)
    if test:
        console.print(_accuracies(model, written, test), markup=False, highlight=False, soft_wrap=True)
    return 0


def _write_codec(
    options: ExportConfig, name: str, output: Path, model: Any, described: SavedModel, loaders: Loaders | None
) -> int:
    """The two transforms of a codec; what lies between them, the entropy coder, is no network."""
    images = list(_taken(loaders.test, 8)) if loaders else []
    pictures = [_padded(_images(batch), model.multiple) for batch in images] or [described.noise(2)]
    with torch.no_grad():
        latents = [model.g_a(each).round() for each in pictures]
    for part, transform, inputs in (("analysis", model.g_a, pictures), ("synthesis", model.g_s, latents)):
        written = export_onnx(
            transform,
            output.with_name(f"{output.stem}-{part}.onnx"),
            _first(inputs[0], 2),
            style=options.style,
            form=options.form,
            calibration=inputs,
            test=inputs,
            sizes=True,
        )
        what = "pictures to latents" if part == "analysis" else "latents to pictures"
        _tell(written, f"The {part} of {name} ({what})", f"{sum(map(len, inputs))} pictures")
    terminal().print(
        "What lies between the two, rounding and entropy coding, is in neither: bitdial compress and decompress do it."
    )
    return 0


def _padded(images: Tensor, multiple: int) -> Tensor:
    height, width = images.shape[-2:]
    padding = (0, -width % multiple, 0, -height % multiple)
    return nn.functional.pad(images, padding, mode="replicate")


def _images(batch: Any) -> Tensor:
    images: Tensor = batch[0] if isinstance(batch, (tuple, list)) else batch
    return images


def _loaders(described: SavedModel, path: Path) -> Loaders | None:
    """The data of the network's run, where it is at hand."""
    try:
        folder = RunFolder.open(next(each for each in path.parents if (each / "config.yaml").is_file()))
        run = open_run(find_recipe(recipe_of(folder.load_config())), folder)
        return run.work.loaders(described.seed)
    except (BitdialError, OSError, StopIteration):  # the data has moved; the network need not wait for it
        return None


def _taken(batches: Iterable[Any], count: int) -> Iterator[Any]:
    """Batches until so many examples were there; the last one is cut."""
    left = count
    for batch in batches:
        size = len(_one(batch))
        yield batch if size <= left else map_tensors(lambda x: x[:left], batch)  # noqa: B023  (used at once)
        left -= size
        if left <= 0:
            return


def _first(batch: Any, count: int) -> Any:
    return map_tensors(lambda x: x[:count], batch)


def _one(tree: Any) -> Tensor:
    return next(tensors(tree))


def _tell(written: OnnxFile, what: str, compared: str) -> None:
    """Print what was written, how the forms fare, and what is to be known."""
    console = terminal()

    def say(text: str, *, path: bool = False) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=path)

    say(f"{what} as ONNX:")
    say(f"{written.path}", path=True)
    form = f", {written.form} form" if written.style == "qdq" else ""
    say(f"Style {written.style}{form}, operator set {written.opset}{_widths(written)}.")
    say(_size(written))
    found = written.parity.unfused
    if found is not None:
        share = f"; {found.ties:,} of {found.activations:,} rounded values lay between two codes and went the other way"
        say(
            f"Node by node it equals the network: outputs differ by {found.difference:.1g} of the largest at most"
            f"{share if found.ties else ''}."
        )
    console.print()
    console.print(_table(written, compared))
    console.print()
    for trap in written.parity.traps:
        say(f"{trap.name}: {trap.what}. Remedy: {trap.remedy}.")
    if written.session_options:
        entries = ", ".join(f"{key}={value}" for key, value in written.session_options.items())
        say(f"Sessions need {entries}; the file's metadata and {written.sidecar.name} say so.")
    if isinstance(written.parity.openvino, str):
        say(f"{written.parity.openvino}.")
    for note in written.notes[:8]:
        say(note)
    if len(written.notes) > 8:
        say(f"... and {len(written.notes) - 8} more; {written.sidecar.name} has all")


def _widths(written: OnnxFile) -> str:
    """What widths its quantized layers have, for a sentence."""
    plans = written.layers.values()
    if not plans:
        return ""
    weights, inputs = ({plan.weights for plan in plans}, {plan.activations for plan in plans})
    return f"; weights {_bits(weights)}, inputs {_bits(inputs)}"


def _bits(widths: set[float]) -> str:
    """Widths as words: ternary, 4 bits, 2 to 8 bits, float32."""
    low, high = min(widths), max(widths)
    if low == high:
        return "ternary" if abs(low - TERNARY_BITS) < 1e-6 else "float32" if low >= UNQUANTIZED else f"{low:.2g} bits"
    return f"{low:.2g} to {high:.2g} bits"


def _size(written: OnnxFile) -> str:
    """How large the file is, beside float32."""
    times = written.float32_bytes / written.bytes
    if times >= 1.05:
        return f"{written.bytes:,} bytes, {times:.1f} times smaller than the weights alone in float32."
    why = ": style qonnx holds values, not codes" if written.style == "qonnx" else ""
    return f"{written.bytes:,} bytes, no smaller than the weights alone in float32{why}."


def _table(written: OnnxFile, compared: str) -> Table:
    """Agreement and time of each form and runtime; classes only of networks that tell some."""
    rows: list[tuple[str, Agreement, str]] = []
    for form, (found, time) in written.forms.items():
        label = f"ONNX Runtime, {form}" if written.style == "qdq" else "ONNX Runtime"
        chosen = " (written)" if form == written.form and len(written.forms) > 1 else ""
        rows.append((label + chosen, found, f"{1000 * time:.3g} ms"))
    if written.parity.default is not None:
        rows.append(("ONNX Runtime without options", written.parity.default, ""))
    if isinstance(written.parity.openvino, Agreement):
        of_form = f", {written.form}" if written.style == "qdq" else ""
        rows.append((f"OpenVINO{of_form}", written.parity.openvino, ""))
    table = Table(box=None, pad_edge=False, title=f"Against the network, on {compared}", title_justify="left")
    table.add_column()
    shares = [found.classes for _, found, _ in rows]
    for heading in [*(["same class"] * any(shares)), "largest difference", f"a batch of {written.timed}"]:
        table.add_column(heading, justify="right")
    for (label, found, took), share in zip(rows, shares, strict=True):
        same = [] if not any(shares) else ["-" if share is None else f"{100 * share:.2f}%"]
        table.add_row(label, *same, f"{100 * found.difference:.2g}%", took)
    return table


@torch.no_grad()
def _accuracies(model: nn.Module, written: OnnxFile, test: list[Any]) -> str:
    """Accuracy as trained, and of the file: what moving grids to whole zero points costs, and what fusion does."""
    import onnx

    from bitdial.export.onnx.sessions import Session
    from bitdial.export.onnx.styles import in_plain_nodes

    session = Session(in_plain_nodes(onnx.load(written.path)), written.session_options)
    right = torch.zeros(2)
    total = 0
    for inputs, labels in test:
        for place, logits in enumerate((model(inputs), torch.from_numpy(session(inputs)[0]))):
            right[place] += (logits.argmax(1) == labels).sum()
        total += len(labels)
    trained, file = (100 * right / total).tolist()
    return f"Accuracy on them: {trained:.2f}% as trained, {file:.2f}% of the file."
