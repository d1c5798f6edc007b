"""A training step on quantized weights and activations against the same step in float, and against peers.

As `benchmarks.fake_quant`, whose subjects these are: 4-bit weights and activations in the same layers for all of them,
zero_grad, forward, cross-entropy, backward and SGD with momentum, the subjects in turns within one run. Ratios are to
the float step of the same round. Peak memory is what the caching allocator handed out during a step, for one subject
at a time, weights and momentum included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.gpu.parts import Bench, Row

if TYPE_CHECKING:
    from torch import Tensor, nn

ROUNDS, WARM_UP = 25, 5
SUBJECTS = {
    "eager": ("float", "bitdial", "DoReFa", "Brevitas"),
    "compiled": ("float", "bitdial"),
    "peers compiled": ("float", "DoReFa", "Brevitas"),
}
NETWORKS = {
    "ResNet-18 32x32": ("resnet18", 32, 256),
    "ResNet-50 224x224": ("torchvision/resnet50", 224, 64),
    "transformer 100M": ("transformer", 512, 16),
    "ResNet-50 32x32": ("torchvision/resnet50", 32, 256),
    "ResNet-18 224x224": ("resnet18", 224, 128),
}
"""Name -> network, side of an image or length of a sequence, batch."""
LIMITS = {"eager": 15.0, "compiled": 150.0, "peers compiled": 150.0}
FIRST = ("compiled", "ResNet-18 32x32", "bfloat16")
"""What is not left to what the rest leaves over."""
WIDTHS = (2, 3, 5, 6, 7, 8, 16, 32)


class Case(NamedTuple):
    """One comparison."""

    mode: str
    network: str
    dtype: str


def cases(toy: bool) -> Mapping[str, float]:
    """All modes, networks and formats; what compiles comes after all that does not, but for one."""
    return {_name(case): LIMITS[case.mode] for case in _cases(toy)}


def _cases(toy: bool) -> list[Case]:
    networks = [name for name in NETWORKS if not toy or name.startswith(("ResNet-18 32", "transformer"))]
    found = [Case(mode, name, dtype) for mode in SUBJECTS for dtype in ("bfloat16", "float32") for name in networks]
    found = [found[0], Case(*FIRST), *(case for case in found[1:] if case != FIRST)]
    if toy:  # compilers take their time
        found = [case for case in found if (case.mode, case.dtype) in (("eager", "float32"), ("eager", "bfloat16"))]
        found.append(Case("compiled", "ResNet-18 32x32", "float32"))
    return found


def _name(case: Case) -> str:
    return f"{case.mode}, {case.network}, {case.dtype}"


def measure(case: str, bench: Bench) -> list[Row]:
    """A row for each subject."""
    import torch

    from benchmarks.fake_quant import subject, training_step
    from benchmarks.timing import quartiles, take_turns

    mode, network, dtype = next(each for each in _cases(bench.toy) if _name(each) == case)
    plain, x, y = build(network, bench)
    steps: dict[str, Callable[[], None]] = {}
    peaks: dict[str, int] = {}
    rows: list[Row] = []
    head = {"mode": mode, "network": network, "batch": len(x), "format": dtype}
    backend = None if mode == "eager" else "aot_eager" if bench.toy else "inductor"
    torch._dynamo.reset()
    warm_up(bench.device)
    for name in SUBJECTS[mode]:
        before = torch.cuda.memory_allocated() if bench.device == "cuda" else 0
        try:
            model = subject(name, plain).to(bench.device)
            step = training_step(model, x, y, backend=backend, dtype=getattr(torch, dtype))
            for _ in range(1 if bench.toy else WARM_UP):
                step()
        except Exception as error:  # a peer that cannot do it is reported as that
            if name in ("float", "bitdial"):
                raise
            rows.append({**head, "subject": name, "note": f"failed: {type(error).__name__}: {error}"[:200]})
            model = step = None  # type: ignore[assignment]
            continue
        if bench.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            step()
            peaks[name] = torch.cuda.max_memory_allocated() - before
        steps[name] = step
        if name == "bitdial" and mode == "compiled":
            head["graphs"] = _graphs(model, step)
    if mode == "compiled":
        steps["float, eager"] = training_step(plain.to(bench.device), x, y, dtype=getattr(torch, dtype))
        steps["float, eager"]()
    times = take_turns(steps, 2 if bench.toy else ROUNDS, seconds=0.8 * bench.seconds_left)
    for name, seconds in times.items():
        ratio = quartiles([mine / floats for mine, floats in zip(seconds, times["float"], strict=True)])
        row = {
            **head,
            "subject": name,
            "ms": 1e3 * quartiles(seconds)["median"],
            "ratio": ratio,
            "rounds": len(seconds),
        }
        if name in peaks:
            row |= {"peak_mb": peaks[name] / 1e6, "peak_ratio": peaks[name] / peaks["float"]}
        rows.append(row)
    return rows


def build(network: str, bench: Bench) -> tuple[nn.Module, Tensor, Tensor]:
    """A float network on the host, and a batch of random data on the device."""
    import torch

    from benchmarks.mixed_precision import tokens, transformer
    from bitdial.models import build_model

    torch.manual_seed(0)
    kind, size, batch = NETWORKS[network]
    if kind == "transformer":
        vocabulary = 64 if bench.toy else 8192
        model = transformer(32, 2, 2, vocabulary) if bench.toy else transformer(768, 12, 12, vocabulary)
        _, x, y = tokens(model, 2 if bench.toy else batch, 16 if bench.toy else size, vocabulary)
        return model, x.to(bench.device), y.to(bench.device)
    if bench.toy:
        kind, size, batch = "tiny_cnn", 8, 2
    model = build_model(kind, num_classes=1000 if size == 224 else 10, in_channels=3, image_size=size)
    if kind.endswith("resnet50") and size == 32:  # the stem for small images, as in bitdial's ResNet-18
        model.set_submodule("conv1", torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False))
        model.set_submodule("maxpool", torch.nn.Identity())
    x = torch.randn(batch, 3, size, size, device=bench.device)
    return model, x, torch.randint(10, (batch,), device=bench.device)


def warm_up(device: str) -> None:
    """Let the libraries allocate what they keep from their first call on, so that no subject is charged for it."""
    import torch

    x = torch.randn(64, 3, 32, 32, device=device)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.Flatten(), torch.nn.Linear(14400, 64)).to(device)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            loss = model(x).float().square().mean()
        loss.backward()


def _graphs(model: nn.Module, step: Callable[[], None]) -> int:
    """Graphs that are compiled while the dial is turned through eight widths, the first one's included."""
    from torch._dynamo.utils import counters

    from bitdial import BitDial

    before = counters["stats"]["unique_graphs"]
    dial = BitDial(model)
    for width in WIDTHS:
        dial.set(width)
        step()
    dial.set(4)
    return 1 + int(counters["stats"]["unique_graphs"] - before)


def table(rows: Sequence[Row]) -> list[str]:
    """One row a subject."""
    lines = [
        "| mode | network, batch | format | subject | step, ms | x float (quartiles) | peak MB | x float |",
        "|---|---|---|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        start = f"| {row['mode']} | {row['network']}, {row['batch']} | {row['format']} | {row['subject']} |"
        lines.append(f"{start} {row['note']} | | | |" if "note" in row else f"{start} {_figures(row)} |")
    graphs = {row["graphs"] for row in rows if row["subject"] == "bitdial" and "graphs" in row}
    if graphs:
        lines += [
            "",
            f"Compiled graphs of a bitdial network trained at {len(WIDTHS) + 1} widths: at most {max(graphs)}.",
        ]
    return lines


def _figures(row: dict[str, Any]) -> str:
    ratio = row["ratio"]
    memory = f"{row['peak_mb']:.0f} | {row['peak_ratio']:.2f}" if "peak_mb" in row else " | "
    return f"{row['ms']:.2f} | {ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f}) | {memory}"
