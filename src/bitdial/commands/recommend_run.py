"""What ``bitdial recommend`` does: facts about network and machine are weighed, and the advice is printed."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from bitdial.commands.workload import Workload, workload_of
from bitdial.doctor import Finding
from bitdial.doctor.findings import as_json, print_table
from bitdial.doctor.machine import accelerators, machine
from bitdial.doctor.trials import arithmetic
from bitdial.machine import product_speeds
from bitdial.terminal import terminal
from bitdial.training.mixed_precision import (
    AdvisedSetting,
    PrecisionDecision,
    advised_settings,
    should_use_mixed_precision,
)
from bitdial.training.step.formats import format_name, good_at_bfloat16, good_at_float16

if TYPE_CHECKING:
    from bitdial.commands.recommend import RecommendConfig


def recommend(options: RecommendConfig) -> int:
    """Print decision, reasons, settings and this machine's facts; return the exit status."""
    found = _advise(options)
    if options.json_output:
        print(json.dumps(_as_json(*found), indent=2))
    else:
        _print(*found)
    return 0


def advice(options: RecommendConfig) -> dict[str, Any]:
    """Decision, reasons, settings and this machine's facts as plain values.

    Raises:
        BitdialError: a network, a data set or a device that there is not.
    """
    return _as_json(*_advise(options))


def _advise(
    options: RecommendConfig,
) -> tuple[Workload, PrecisionDecision, tuple[AdvisedSetting, ...], list[Finding], dict[str, str]]:
    work = workload_of(options)
    speeds = product_speeds(work.device.type)
    place = {
        "speeds": speeds,
        "batch_size": work.batch_size,
        "available_memory": options.available_memory,
        "device": work.device,
    }
    decision = should_use_mixed_precision(work.network, **place, example_input=work.images(1))  # type: ignore[arg-type]
    settings = advised_settings(work.network, **place)  # type: ignore[arg-type]
    findings = list(_machine(work.device.type))
    return work, decision, settings, findings, _commands(options, decision, settings)


def _machine(device: str) -> Iterator[Finding]:
    """The doctor's findings that the advice rests on, and which formats are native."""
    yield from (each for each in machine(Path.cwd()) if each.name != "disk")
    yield from (each for each in accelerators() if each.name.startswith(("cuda", device)))
    tried = {each.name: each for each in arithmetic()}
    for name, good in (("bfloat16", good_at_bfloat16), ("float16", good_at_float16)):
        yield from (tried[key] for way in ("autocast", "products") if (key := f"{device} {way} {name}") in tried)
        native = good(device)
        text = "the device computes in it" if native else "not on this device: converted there and back, slowly"
        yield Finding("arithmetic", f"{device} native {name}", text, native)


def _commands(
    options: RecommendConfig, decision: PrecisionDecision, settings: tuple[AdvisedSetting, ...]
) -> dict[str, str]:
    """Command lines that follow the advice, and that measure it."""
    same = ["--model", options.model, "--dataset", options.dataset, "--batch_size", str(options.batch_size)]
    same += ["--data_path", str(options.data_path)] if options.data_path else []
    train = ["bitdial", "train", "cyclic", *same]
    if decision:
        train += ["--precision", format_name(decision.dtype)]
        names = ("init_scale", "growth_factor") if format_name(decision.dtype) == "float16" else ()
        for each in settings:
            if each.name in names:
                train += [f"--mixed_precision.{each.name}", f"{each.value:.7g}"]
            elif each.name == "memory_efficient" and not each.value:
                train += ["--mixed_precision.no_memory_efficient"]
    bench = ["bitdial", "bench", "amp", *same]
    bench += ["--image_size", str(options.image_size)] if options.image_size else []
    bench += ["--device", options.device] if options.device != "auto" else []
    return {"train": shlex.join(train), "measure": shlex.join(bench)}


def _as_json(
    work: Workload,
    decision: PrecisionDecision,
    settings: tuple[AdvisedSetting, ...],
    findings: list[Finding],
    commands: dict[str, str],
) -> dict[str, Any]:
    return {
        "workload": work.text,
        "batch_size": work.batch_size,
        "decision": {**dataclasses.asdict(decision), "dtype": format_name(decision.dtype)},
        "settings": {each.name: _shown(each) if each.name == "dtype" else each.value for each in settings},
        "setting_reasons": {each.name: each.reason for each in settings},
        "machine": as_json(findings),
        "commands": commands,
    }


def _shown(setting: AdvisedSetting) -> str:
    if setting.name == "dtype":
        return format_name(setting.value)
    if setting.name == "init_scale":
        return f"{setting.value:,.0f}"
    return f"{setting.value:g}" if isinstance(setting.value, float) else str(setting.value)


def _print(
    work: Workload,
    decision: PrecisionDecision,
    settings: tuple[AdvisedSetting, ...],
    findings: list[Finding],
    commands: dict[str, str],
) -> None:
    console = terminal()
    console.print(f"{work.text}, batch {work.batch_size}, on {decision.device}\n")
    yes = Text.assemble(("Use mixed precision", "bold green"), f" ({format_name(decision.dtype)}).")
    console.print(yes if decision else Text("Stay in float32.", "bold yellow"))
    reasons = _table()
    for mark, sentences in (("+", decision.reasons_for), ("-", decision.reasons_against)):
        for sentence in sentences:
            reasons.add_row(mark, Text(sentence))
    console.print(reasons)
    console.print(Text.assemble(("\nSettings", "bold"), "" if decision else ", if you use it all the same"))
    rows = _table()
    for each in settings:
        rows.add_row(each.name, _shown(each), Text(each.reason))
    console.print(rows)
    console.print(Text("\nThis machine", "bold"))
    print_table(findings, console)
    console.print("\nTo train:   " + commands["train"], soft_wrap=True)
    console.print("To measure: " + commands["measure"], soft_wrap=True)


def _table() -> Table:
    return Table(show_header=False, box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1))
