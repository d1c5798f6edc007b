"""What the page has computed, in a process of its own: plain values in, plain values out."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from bitdial.compression.metrics import psnr
from bitdial.configuration import load_config
from bitdial.errors import BitdialError
from bitdial.evaluation.sweep import RECALIBRATION_LIMIT, sweep, unchanged
from bitdial.layers import BitDial, reestimate_batch_norm
from bitdial.layers.ledger import Ledger, cost
from bitdial.numerics import UNQUANTIZED
from bitdial.recipes import find_recipe, recipe_of
from bitdial.recipes.run import Run
from bitdial.recipes.saved_model import bits_of, first_network, saved_networks
from bitdial.recipes.start import open_run
from bitdial.training import RunFolder
from bitdial.training.batches import to_device
from bitdial.wording import bytes_text

WIDTHS = (2, 3, 4, 6, 8, 32)
"""At which an example is shown."""
MOST_GROUPS = 6
MOST_IMAGES = 2000
MOST_CODECS = 8
"""Of a run with more, the first, the last and some between are shown: each takes about a second."""
MOST_SETTINGS = 64
"""Settings of widths whose statistics are kept."""


def recommend(values: Mapping[str, Any]) -> dict[str, Any]:
    """What ``bitdial recommend --json`` prints."""
    from bitdial.commands.recommend import RecommendConfig
    from bitdial.commands.recommend_run import advice
    from bitdial.commands.workload import check_workload

    options = load_config(RecommendConfig, prog="bitdial recommend", values=values)
    check_workload(options)
    found = advice(options)
    kept = {name: each for name, each in found["decision"].items() if name not in ("use", "decision")}
    return {**found, "decision": kept, "yes": "--precision" in found["commands"]["train"]}


def benchmark(values: Mapping[str, Any]) -> dict[str, Any]:
    """What ``bitdial bench amp --json`` prints."""
    from bitdial.commands.bench_amp import BenchAmpConfig
    from bitdial.commands.bench_amp_run import measured
    from bitdial.commands.workload import check_workload

    options = load_config(BenchAmpConfig, prog="bitdial bench amp", values=values)
    check_workload(options)
    work, found = measured(options)
    return {"workload": work.text, **found.to_dict()}


@lru_cache(maxsize=1)
def _opened(folder: str, stamp: float) -> _Opened:
    return _Opened(Path(folder))


def _open(folder: str) -> _Opened:
    """The run of a folder; the last one is kept, as long as its results are the same."""
    results = Path(folder) / "results.json"
    if not results.is_file():
        raise BitdialError("expected a finished run, got one that has no results yet; wait, or resume it")
    return _opened(folder, results.stat().st_mtime)


class _Opened:
    """A trained network with what it is measured on."""

    def __init__(self, path: Path) -> None:
        folder = RunFolder.open(path)
        recipe = find_recipe(recipe_of(folder.load_config()))
        self.run: Run[Any, Any, Any, Any] = open_run(recipe, folder, changes={"accept_changed_data": True})
        self.arms = [arm.name for arm in recipe.arms(self.run.options)]
        self.is_codec = recipe.name == "compress"
        if self.is_codec:
            return
        shipped = first_network(folder)[1] if saved_networks(folder) else None
        self.arm = shipped.arm if shipped is not None else self.arms[0]
        self.seed = shipped.seed if shipped is not None else self.run.seeds[0]
        loaders = self.run.work.loaders(self.seed)
        self.test, self.train = loaders.test, loaders.recalibration
        self.ships = dict(shipped.bits) if shipped is not None else {}
        self._networks: tuple[str, nn.Module, Ledger] | None = None
        self._statistics: dict[tuple[float, ...], dict[str, Tensor]] = {}

    def network(self, arm: str) -> tuple[nn.Module, Ledger]:
        """The network of an arm; one is kept."""
        if arm not in self.arms:
            raise BitdialError(f"arm: expected one of {', '.join(self.arms)}, got {arm!r:.60}; choose one")
        if self._networks is None or self._networks[0] != arm:
            model = self.run.load_arm(arm, self.seed).eval()
            if not bits_of(model):
                raise BitdialError(f"expected an arm with a dial, got {arm}, which is not quantized; choose another")
            self._networks = arm, model, cost(model, _inputs(next(iter(self.test)))[:1])
            self._statistics.clear()
        return self._networks[1:]

    @contextmanager
    def turned(self, arm: str, widths: Sequence[float]) -> Iterator[nn.Module]:
        """The network of an arm at a width for each layer, with the statistics that belong to these.

        They are estimated once for each setting: that takes far longer than to look at an example.
        """
        model, _ = self.network(arm)
        with unchanged(model), BitDial(model).held(list(widths)):
            kept = self._statistics.pop(tuple(widths), None)
            if kept is None:
                reestimate_batch_norm(model, self.train, limit=RECALIBRATION_LIMIT, forward=self._forward)
                kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
            else:
                for name, buffer in model.named_buffers():
                    buffer.copy_(kept[name])
            self._statistics[tuple(widths)] = kept  # the newest last
            while len(self._statistics) > MOST_SETTINGS:
                self._statistics.pop(next(iter(self._statistics)))
            yield model.eval()

    def _forward(self, model: nn.Module, batch: Any) -> Any:
        return self.run.work.task.logits(model, to_device(batch, next(model.parameters()).device))


def about(folder: str) -> dict[str, Any]:
    """What can be explored of a run.

    Returns:
        ``codec`` (bool), ``arms``, ``arm`` (the one that ships), and of a dialled network ``groups`` (name -> layers)
        and ``bits`` (group -> the width that it ships at).
    """
    opened = _open(folder)
    if opened.is_codec:
        return {"codec": True, "arms": opened.arms, "arm": opened.arms[0], "groups": {}, "bits": {}}
    arms = [arm for arm in opened.arms if _is_dialled(opened, arm)]
    if not arms:
        raise BitdialError("this run has no network with a dial: nothing in it is quantized")
    arm = opened.arm if opened.arm in arms else arms[0]
    model, _ = opened.network(arm)
    groups = groups_of(BitDial(model).names)
    here = dict(bits_of(model))  # as it was trained last, which is a random width in joint
    if arm == opened.arm:
        here |= {name: width for name, width in opened.ships.items() if name in here}
    bits = {name: sum(here[layer] for layer in layers) / len(layers) for name, layers in groups.items()}
    return {"codec": False, "arms": arms, "arm": arm, "groups": groups, "bits": bits}


def _is_dialled(opened: _Opened, arm: str) -> bool:
    named = next(each for each in opened.run.recipe.arms(opened.run.options) if each.name == arm)
    return opened.run.recipe.quantize(named.options or opened.run.options) is not None


def groups_of(names: Sequence[str]) -> dict[str, list[str]]:
    """Layers by the module that they lie in, in order; at most `MOST_GROUPS` groups, neighbours joined."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(name.partition(".")[0], []).append(name)
    if len(found) < 2:
        found = {name: [name] for name in names}
    parts = list(found.items())
    share = -(-len(parts) // MOST_GROUPS)
    joined = [parts[start : start + share] for start in range(0, len(parts), share)]
    return {
        (each[0][0] if len(each) == 1 else f"{each[0][0]} to {each[-1][0]}"): [
            name for _, names in each for name in names
        ]
        for each in joined
    }


def explore(folder: str, arm: str, widths: Mapping[str, float], images: int, example: int) -> dict[str, Any]:
    """A network at given widths: accuracy, BitOps, size, and an example with its prediction at each width.

    Args:
        folder: of a finished run.
        arm: which of its networks.
        widths: group of layers -> width of its weights and activations; groups left out stay at 32.
        images: measure on so many test images at most.
        example: number of the test image that is shown.
    """
    opened = _open(folder)
    model, ledger = opened.network(arm)
    dial = BitDial(model)
    groups = groups_of(dial.names)
    by_layer = {layer: float(widths.get(name, UNQUANTIZED)) for name, layers in groups.items() for layer in layers}
    chosen = [by_layer[name] for name in dial.names]
    if not 1 <= images <= MOST_IMAGES:
        raise BitdialError(f"images: expected 1 to {MOST_IMAGES}, got {images}")
    batches, count = _some(opened.test, images)
    with opened.turned(arm, chosen):
        score = sweep(model, batches, [chosen], reestimate=False, task=opened.run.work.task)[0]
    full = ledger.step_bitops(UNQUANTIZED, UNQUANTIZED).forward
    forward = ledger.step_bitops(chosen, chosen).forward
    facts = {
        "accuracy": f"{100 * score.accuracy:.1f}%",
        "on": f"{count} test images",
        "BitOps, simulated": f"{100 * forward / full:.1f}% of 32 bits",
        "file": _file_size(model, dial, chosen),
    }
    rows, picture = _example(opened, arm, chosen, example)
    return {
        "facts": facts,
        "pictures": [picture] if picture else [],
        "columns": ["width", "prediction", "probability"],
        "rows": rows,
        "caption": f"Test image {example} at each width",
        "notes": [
            "BitOps are simulated: fake quantization saves no time. Batch-norm statistics are re-estimated at each."
        ],
    }


def _file_size(model: nn.Module, dial: BitDial, widths: Sequence[float]) -> str:
    from bitdial.export.packed import packed_bytes

    with unchanged(model), dial.held(list(widths)):
        try:
            return f"{bytes_text(len(packed_bytes(model)))}, packed"
        except BitdialError as error:
            return f"cannot be packed: {error}"


def _inputs(batch: Any) -> Any:
    return batch[0] if isinstance(batch, tuple | list) else batch


def _some(batches: Any, images: int) -> tuple[list[Any], int]:
    found: list[Any] = []
    count = 0
    for batch in batches:
        take = min(len(batch[1]), images - count)
        found.append(tuple(part[:take] for part in batch) if isinstance(batch[0], Tensor) else batch)
        count += take if isinstance(batch[0], Tensor) else len(batch[1])
        if count >= images:
            break
    return found, count


def _example(
    opened: _Opened, arm: str, chosen: Sequence[float], number: int
) -> tuple[list[list[str]], dict[str, str] | None]:
    """Rows of predictions, and the picture; neither where the inputs are no pictures."""
    first = next(iter(opened.test))
    if not isinstance(_inputs(first), Tensor) or _inputs(first).dim() != 4:
        return [], None
    seen = 0
    for batch in opened.test:
        if seen + len(batch[1]) > number >= 0:
            break
        seen += len(batch[1])
    else:
        raise BitdialError(f"example: expected 0 to {seen - 1}, the number of a test image, got {number}")
    image, label = batch[0][number - seen : number - seen + 1], int(batch[1][number - seen])
    names = opened.run.work.facts().get("class_names") or []

    def named(index: int) -> str:
        return str(names[index]) if index < len(names) else str(index)

    rows = []
    fixed = [(f"{width} bits", [float(width)] * len(chosen)) for width in WIDTHS]
    for text, widths in [("as chosen", chosen), *fixed]:
        with opened.turned(arm, widths) as model, torch.no_grad():
            likely = torch.softmax(model(to_device(image, next(model.parameters()).device)), 1)[0]
        best = int(likely.argmax())
        rows.append([text, f"{named(best)}{' ✓' if best == label else ' ✗'}", f"{100 * float(likely[best]):.0f}%"])
    facts = opened.run.work.facts()
    shape = (1, -1, 1, 1)
    mean, std = (torch.tensor(facts[name]).view(shape) for name in ("mean", "std"))
    picture = (image.cpu() * std + mean).clamp(0, 1)[0]
    return rows, {"caption": f"{named(label)} (test image {number})", "png": _png(picture)}


def _png(picture: Tensor, least: int = 160) -> str:
    """A picture ``[C, H, W]`` in [0, 1] as base64 PNG, enlarged to be seen."""
    pixels = (255 * picture).round().to(torch.uint8).permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels[:, :, :3])
    factor = max(1, least // max(image.size))
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def reconstruct(folder: str, example: int) -> dict[str, Any]:
    """An original and what each of a run's codecs makes of it, side by side, with bytes and PSNR.

    Args:
        folder: of a finished run of ``bitdial train compress``.
        example: number of the held-out picture.
    """
    from bitdial.recipes.compress.codecs import load_codec

    opened = _open(folder)
    pictures = opened.run.work.test  # type: ignore[attr-defined]
    if not 0 <= example < len(pictures):
        raise BitdialError(f"example: expected 0 to {len(pictures) - 1}, the number of a picture, got {example}")
    pixels = pictures[example]
    rows, shown = [], [{"caption": f"original ({pixels.shape[-1]} x {pixels.shape[-2]})", "png": _png(pixels / 255)}]
    for name in _spread(opened.arms, MOST_CODECS):
        codec = load_codec(folder, arm=name if len(opened.arms) > 1 else None)
        data = codec.compress(pixels)
        made = codec.decompress(data).pixels
        quality = float(psnr(pixels[None] / 255, made[None] / 255))
        bpp = 8 * len(data) / (pixels.shape[-1] * pixels.shape[-2])
        told = name.replace("_", " ")
        rows.append([told, bytes_text(len(data)), f"{bpp:.3f}", f"{quality:.2f}"])
        shown.append({"caption": f"{told}: {bytes_text(len(data))}, {quality:.1f} dB", "png": _png(made.float() / 255)})
    return {
        "facts": {},
        "pictures": shown,
        "columns": ["codec", "file", "bits per pixel", "PSNR, dB"],
        "rows": rows,
        "caption": f"Picture {example} in files of each codec",
        "notes": ["Sizes are those of real files, decoded again.", *_left_out(len(rows), len(opened.arms))],
    }


def _spread(names: Sequence[str], most: int) -> list[str]:
    """At most so many of some names, evenly spread, with the first and the last."""
    if len(names) <= most:
        return list(names)
    return [names[round(place * (len(names) - 1) / (most - 1))] for place in range(most)]


def _left_out(shown: int, there: int) -> list[str]:
    return [f"Shown are {shown} of the run's {there} codecs, from the first to the last one."] if shown < there else []
