"""What fake quantization costs: a whole training step, against float and against other libraries, in one run.

Run with ``OMP_NUM_THREADS=2 python -m benchmarks.fake_quant [--rounds N] [--models ...] [--modes eager compiled]``.
A step is zero_grad, forward, cross-entropy, backward and SGD with momentum. The subjects take turns within each round,
in an order that rotates, and a ratio is taken to the float step of the same round. The first convolution and the
classifier stay in float for all of them; all others have 4-bit weights and 4-bit activations.

Subjects:
    float: the network as it is.
    bitdial: `bitdial.quantize`, uniform grids, weights per channel.
    bitdial, no C compiler: the same without native kernels (eager only).
    DoReFa: as people write it by hand with two autograd functions; widths are Python numbers.
    Brevitas: QuantConv2d with 4-bit weights per channel and 4-bit activations, calibrated while warming up.
    torchao: its quantization-aware training has no convolution layer, so there is nothing to measure here.

With ``--tax`` instead: every registered quantizer of weights against float, eager, where weights are much of the work
(ResNet-18 at batch 8, nothing else quantized) and where they are little (ResNet-20 at batch 64, 8-bit activations).

Peak memory is the highest number of live bytes during a step, in a process of its own for each subject: as PyTorch's
profiler counts allocations on a CPU, as the caching allocator counts them on a GPU.

On Linux the C library is told to keep freed memory (``mallopt``) for all subjects alike, as an allocator made for
training would; else page faults decide the figures. ``--no-mallopt`` leaves that out.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import bitdial
from benchmarks.machine import describe, keep_freed_memory
from benchmarks.timing import take_turns
from bitdial.models import build_model
from bitdial.numerics import QUANTIZERS, UNQUANTIZED

RESULTS = Path(__file__).parent / "results"
BITS = 4
MODELS = {"resnet20": 128, "resnet18": 32, "tiny_cnn": 8}  # network -> batch size
TAXED = {"resnet18": (8, UNQUANTIZED), "resnet20": (64, 8)}  # network -> batch size and bits of the activations
MODES = ("eager", "compiled")
PEERS = ("torchvision", "brevitas", "torchao")
SUBJECTS = ("float", "bitdial", "bitdial, no C compiler", "DoReFa", "Brevitas")


class _RoundDorefa(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: int) -> Tensor:
        last = 2**bits - 1
        return torch.round(x * last) / last

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return gradients[0], None


def _dorefa_weight(weight: Tensor) -> Tensor:
    weight = torch.tanh(weight)
    return 2 * _RoundDorefa.apply(weight / (2 * weight.abs().max()) + 0.5, BITS) - 1


def _dorefa_values(x: Tensor) -> Tensor:
    return _RoundDorefa.apply(x.clamp(0, 1), BITS)  # type: ignore[no-any-return]


class DorefaConv(nn.Conv2d):
    """The convolution of DoReFa-Net, written plainly."""

    def forward(self, input: Tensor) -> Tensor:
        """Quantize both operands, then convolve."""
        return self._conv_forward(_dorefa_values(input), _dorefa_weight(self.weight), self.bias)


class DorefaLinear(nn.Linear):
    """The same for a linear layer."""

    def forward(self, input: Tensor) -> Tensor:
        """Quantize both operands, then multiply."""
        return functional.linear(_dorefa_values(input), _dorefa_weight(self.weight), self.bias)


def _shape(layer: nn.Module) -> dict[str, Any]:
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
    names = names if isinstance(layer, nn.Conv2d) else ("in_features", "out_features")
    return {name: getattr(layer, name) for name in names} | {"bias": layer.bias is not None}


def _dorefa(layer: nn.Module) -> nn.Module:
    new = (DorefaConv if isinstance(layer, nn.Conv2d) else DorefaLinear)(**_shape(layer))
    new.load_state_dict(layer.state_dict())
    return new


def _brevitas(layer: nn.Module) -> nn.Module:
    from brevitas.nn import QuantConv2d, QuantLinear
    from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat, Uint8ActPerTensorFloat

    convolution = isinstance(layer, nn.Conv2d)  # behind a ReLU; what linear layers here get has either sign
    new = (QuantConv2d if convolution else QuantLinear)(
        **_shape(layer), weight_quant=Int8WeightPerChannelFloat, weight_bit_width=BITS,
        input_quant=Uint8ActPerTensorFloat if convolution else Int8ActPerTensorFloat, input_bit_width=BITS,
        input_collect_stats_steps=2,  # by default it sorts every activation for 300 steps, before it learns its scale
    )  # fmt: skip
    new.load_state_dict(layer.state_dict(), strict=False)
    return new


def subject(name: str, network: nn.Module) -> nn.Module:
    """A copy of `network`, quantized as `name` says: the layers that bitdial quantizes, by every subject."""
    model = copy.deepcopy(network)
    if name == "float":
        return model
    quantized = bitdial.quantize(copy.deepcopy(network), weights=BITS, activations=BITS)
    if name.startswith("bitdial"):
        return quantized
    make = _dorefa if name == "DoReFa" else _brevitas
    for layer in bitdial.BitDial(quantized).names:
        model.set_submodule(layer, make(model.get_submodule(layer)))
    return model


def training_step(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    backend: str | None = None,
    dtype: torch.dtype = torch.float32,
    optimizer: torch.optim.Optimizer | None = None,
) -> Callable[[], None]:
    """A function that takes one training step on a batch, and leaves nothing in a device's queue.

    Args:
        model: what trains.
        x, y: the batch, on the model's device.
        backend: of ``torch.compile``; None: eager.
        dtype: of autocast, where it is a narrow one.
        optimizer: of the model; None: SGD with momentum.
    """
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    call = model if backend is None else torch.compile(model, backend=backend)
    device = x.device.type

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            loss = functional.cross_entropy(call(x), y)
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def make_step(name: str, network: str, *, compiled: bool) -> Callable[[], None]:
    """A function that takes one training step."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    plain = build_model(network, num_classes=10, in_channels=3, image_size=32)
    model = subject(name, plain).to(device)
    x, y = torch.randn(MODELS[network], 3, 32, 32, device=device), torch.randint(10, (MODELS[network],), device=device)
    step = training_step(model, x, y, backend="inductor" if compiled else None)
    if name == "bitdial, no C compiler":
        from bitdial.numerics import grid

        def without_kernels() -> None:
            found, grid.kernels = grid.kernels, lambda: None  # type: ignore[assignment]
            try:
                step()
            finally:
                grid.kernels = found

        return without_kernels
    return step


def measure_time(network: str, mode: str, subjects: list[str], rounds: int) -> list[dict[str, Any]]:
    """Median step times and ratios to float, the subjects interleaved."""
    steps, failed = {}, {}
    for name in subjects:
        if mode == "compiled" and name == "bitdial, no C compiler":
            continue
        try:
            steps[name] = make_step(name, network, compiled=mode == "compiled")
            for _ in range(3):
                steps[name]()
        except Exception as error:  # a peer that fails is reported as that
            steps.pop(name, None)
            failed[name] = f"failed: {type(error).__name__}: {error}"[:160]
    about = {"model": network, "batch": MODELS[network], "mode": mode}
    rows = [about | row for row in compared(take_turns(steps, rounds))]
    return rows + [{"model": network, "mode": mode, "subject": name, "note": note} for name, note in failed.items()]


def compared(seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Median step times, and ratios to the float step of the same round."""
    rows = []
    for name, times in seconds.items():
        ratios = [mine / plain for mine, plain in zip(times, seconds["float"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        rows.append(
            {
                "subject": name, "ms": statistics.median(times) * 1e3, "ratio": middle, "ratio_quartiles": [low, high],
                "fastest_ratio": min(times) / min(seconds["float"]),
            }
        )  # fmt: skip
    return rows


def measure_tax(network: str, rounds: int) -> list[dict[str, Any]]:
    """`compared` for every registered quantizer of weights."""
    batch, activations = TAXED[network]
    torch.manual_seed(0)
    plain = build_model(network, num_classes=10, in_channels=3, image_size=32)
    x, y = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
    models = {"float": copy.deepcopy(plain)}
    for name in QUANTIZERS:
        width = {"weights": BITS, "activations": activations}
        models[name] = bitdial.quantize(
            copy.deepcopy(plain), **width, weight_quantizer=name, activation_quantizer="uniform"
        )
    steps = {name: training_step(model, x, y) for name, model in models.items()}
    for step in steps.values():
        for _ in range(3):
            step()
    about = {"model": network, "batch": batch, "activations": activations}
    return [about | row for row in compared(take_turns(steps, rounds))]


def tax_page(part: dict[str, Any]) -> str:
    """The rows of `measure_tax` as a table, with the machine."""
    lines = [
        "| network | batch | activations | weight quantizer | step, ms | x float (quartiles) |",
        "|---|--:|---|---|--:|--:|",
    ]
    for row in part["rows"]:
        bits = "float" if row["activations"] == UNQUANTIZED else f"{row['activations']} bits"
        low, high = row["ratio_quartiles"]
        lines.append(
            f"| {row['model']} | {row['batch']} | {bits} | {row['subject']} | {row['ms']:.1f} | "
            f"{row['ratio']:.2f} ({low:.2f}-{high:.2f}) |"
        )
    return "\n".join(lines) + f"\n\nEvery quantizer of weights, eager. {conditions(part)}\n"


def conditions(part: dict[str, Any]) -> str:
    """How a table was measured, and on what."""
    listed = ", ".join(f"{name} {value}" for name, value in part["machine"].items())
    return f"Medians over {part['rounds']} interleaved rounds; {BITS}-bit weights{part.get('also', '')}; {listed}."


def peak_bytes(network: str, mode: str, name: str) -> int:
    """Highest number of live bytes during a step, parameters and optimizer state included."""
    step = make_step(name, network, compiled=mode == "compiled")
    for _ in range(3):
        step()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated()
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    live = highest = 0
    events = profiler.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        live += event.nbytes()
        highest = max(highest, live)
    import gc

    held = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in gc.get_objects() if torch.is_tensor(t)
    }
    return highest + sum(held.values())


def measure_memory(network: str, mode: str, subjects: list[str]) -> dict[str, int]:
    """`peak_bytes` of each subject, each in a process of its own."""
    peaks = {}
    for name in subjects:
        words = [sys.executable, "-m", "benchmarks.fake_quant", "--peak-of", network, mode, name]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            peaks[name] = int(done.stdout.split()[-1])
    return peaks


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| network | mode | subject | step, ms | x float (quartiles) | peak MB | x float |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        head = f"| {row['model']} | {row['mode']} | {row['subject']} |"
        if "note" in row:
            lines.append(f"{head} {row['note']} | | | |")
            continue
        low, high = row["ratio_quartiles"]
        memory = f"{row['peak_mb']:.0f} | {row['peak_ratio']:.2f}" if "peak_mb" in row else " | "
        lines.append(f"{head} {row['ms']:.1f} | {row['ratio']:.2f} ({low:.2f}-{high:.2f}) | {memory} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the tables and write them; a mode that is not measured keeps its last figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet20", "resnet18"], choices=MODELS)
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS), choices=SUBJECTS)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--no-mallopt", action="store_true")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--tax", action="store_true", help="the quantizers of weights instead")
    parser.add_argument("--output", type=Path, default=RESULTS / "fake_quant")
    parser.add_argument("--peak-of", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if options.peak_of:
        print(peak_bytes(*options.peak_of))
        return
    kept = sys.platform.startswith("linux") and not options.no_mallopt
    if kept:
        keep_freed_memory()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    subjects = list(dict.fromkeys(["float", *options.subjects]))
    file = options.output.with_suffix(".json")
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"bits": BITS}
    for mode in () if options.tax else options.modes:
        rows: list[dict[str, Any]] = []
        for network in options.models:
            found = measure_time(network, mode, subjects, options.rounds)
            measured = [row["subject"] for row in found if "ms" in row]
            peaks = {} if options.no_memory else measure_memory(network, mode, measured)
            for row in found:
                if row["subject"] in peaks and "float" in peaks:
                    row["peak_mb"] = peaks[row["subject"]] / 1e6
                    row["peak_ratio"] = peaks[row["subject"]] / peaks["float"]
            rows += found
            print(markdown(found), flush=True)
        results[mode] = {"machine": describe(packages=PEERS), "also": " and activations"} | {
            "rounds": options.rounds, "kept_freed_memory": kept, "rows": rows
        }  # fmt: skip
    if options.tax:
        rows = [row for network in TAXED for row in measure_tax(network, options.rounds)]
        machine = describe(packages=()) | {"load_average": round(os.getloadavg()[0], 1)}  # above the cores: not alone
        facts = {"machine": machine, "rounds": options.rounds, "kept_freed_memory": kept}
        results["tax"] = facts | {"rows": rows}
        print(tax_page(results["tax"]))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n")
    options.output.with_suffix(".md").write_text(page(results))


def page(results: dict[str, Any]) -> str:
    """The tables of every mode, each with the machine and the rounds of its own run."""
    parts = [f"{markdown(results[mode]['rows'])}\n\n{conditions(results[mode])}\n" for mode in MODES if mode in results]
    parts += [tax_page(results["tax"])] if "tax" in results else []
    return "\n".join([*parts, "torchao has no convolution layer for quantization-aware training.\n"])


if __name__ == "__main__":
    main()
