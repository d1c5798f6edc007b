"""What ``bitdial bench runtime`` does: the ways are prepared, timed in turn and shown, with the sizes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich import box
from rich.table import Table
from rich.text import Text

from bitdial.errors import BitdialError
from bitdial.export import packed_sizes
from bitdial.machine import processor
from bitdial.runtime.kernels.structures import vector_units
from bitdial.runtime.loading import changes, networks_of
from bitdial.runtime.network import Network
from bitdial.runtime.peers import BITDIAL, FLOAT32, PEERS, Case, Timed, in_floats, measured
from bitdial.runtime.sizes import FORMATS, Sizes, counted, held_by
from bitdial.terminal import terminal
from bitdial.wording import bytes_text

if TYPE_CHECKING:
    from bitdial.commands.bench_runtime import BenchRuntimeConfig


def bench_runtime(path: Path, options: BenchRuntimeConfig) -> int:
    """Time a network; return the exit status."""
    described, trained, model = networks_of(path)
    if described.signals is not None:
        raise BitdialError(f"expected a network of images, got one of recordings in {path}; time it from Python")
    names = tuple(name for name, peer in PEERS.items() if options.everything or not peer.slow)
    plain, console = in_floats(model), terminal()
    notes = changes(trained, model)
    results: list[dict[str, Any]] = []
    if not options.json_output:
        console.print(
            Text(f"{path}: {described.model}, on {processor()} ({', '.join(vector_units())})"), soft_wrap=True
        )
    for threads in options.threads:
        for batch in options.batch:
            x = described.noise(batch)
            case = Case(model, trained, plain, x, threads, (x,))
            with console.status("", spinner="line") as status:
                found = measured(case, names, options.rounds, lambda name: status.update(f"preparing {name} ..."))
            results.append({"batch": batch, "threads": threads, "ways": _plain(found)})
            if not options.json_output:
                _print(found, batch, threads)
            if notes and not options.json_output:
                console.print(Text(f"bitdial computes with {'; '.join(notes)}."))
    sizes = _sizes(path, described, trained, model)
    if options.json_output:
        facts = {"processor": processor(), "vector_units": vector_units(), "notes": notes, "torch": torch.__version__}
        rows = [
            {"what": what, "bytes": own, **dict(zip(FORMATS, others, strict=True))}
            for what, own, others in sizes.rows()
        ]
        print(json.dumps({**facts, "results": results, "sizes": rows}, indent=2))
        return 0
    _print_sizes(sizes)
    return 0


def _plain(found: Mapping[str, Timed]) -> dict[str, Any]:
    return {
        name: {"failure": each.failure}
        if each.failure
        else {
            "milliseconds": round(1000 * each.median, 4),
            "relative_difference": each.difference,
            "same_class": each.agreement,
        }
        for name, each in found.items()
    }


def _print(found: Mapping[str, Timed], batch: int, threads: int) -> None:
    console = terminal()
    measure = "processor time" if threads == 1 else "time"
    of = "1 image" if batch == 1 else f"{batch} images"
    on = "1 thread" if threads == 1 else f"{threads} threads"
    base = found.get(FLOAT32)
    base = base if base is not None and not base.failure else found["PyTorch float32"]
    against = FLOAT32 if base is found.get(FLOAT32) else "PyTorch float32"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"{of} at a time, {on}", title_justify="left")
    table.add_column("way", overflow="fold")
    for name in (f"{measure}, ms", "speed", "difference", "same class"):
        table.add_column(name, justify="right")
    for name, each in sorted(
        found.items(), key=lambda pair: (bool(pair[1].failure), pair[1].median if pair[1].seconds else 0)
    ):
        if each.failure:
            table.add_row(Text(name), Text("-"), Text("-"), Text("-"), Text("-"))
            continue
        speed = f"{each.times_faster(base):.2f}x"
        style = "bold" if name == BITDIAL else ""
        cells = (name, f"{1000 * each.median:#.3g}", speed, f"{each.difference:.1e}", f"{each.agreement:.1%}")
        table.add_row(*(Text(cell, style) for cell in cells))
    console.print(table)
    for name, each in found.items():
        if each.failure:
            console.print(Text(f"{name}: not measured ({each.failure})"), soft_wrap=True)
    told = "the difference is that of the outputs from those of the network as it was trained"
    console.print(Text(f"Speed is against {against}, round by round; {told}."))


def _sizes(path: Path, described: Any, trained: Any, model: Any) -> Sizes:
    count, other = counted(model)
    network = Network(model, 1)
    plan = network.plan(described.noise(1))
    held = held_by(plan.programs) if plan is not None and network.chosen.way == "kernels" else (None, None)
    if path.suffix == ".safetensors":
        packed = packed_sizes(trained, description=described.packed())
        return Sizes(count, other, packed.weights, path.stat().st_size, *held)
    packed = packed_sizes(trained, description=described.packed())
    return Sizes(count, other, packed.weights, packed.file, *held)


def _print_sizes(sizes: Sizes) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="Size", title_justify="left")
    table.add_column("what", overflow="fold")
    table.add_column("packed", justify="right")
    for name in FORMATS:
        table.add_column(name, justify="right")
    for what, own, others in sizes.rows():
        cells = [f"{bytes_text(each)} ({each / own:.1f}x)" if own else bytes_text(each) for each in others]
        table.add_row(Text(what), Text("-" if own is None else bytes_text(own)), *map(Text, cells))
    terminal().print(table)
