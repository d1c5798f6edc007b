"""Measures cases of one part in a process of its own, and keeps a journal that the driver reads.

A line of the journal is a JSON object: ``{"began": case, "limit": seconds}``, then ``{"ended": case, "rows": [...]}``
or ``{"ended": case, "failed": what the error said}`` or ``{"put_back": case}``. Without a module it prints what this
machine is.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import sys
import sysconfig
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import Bench, Module, NotEnoughTimeError, module

LAST = 1500
"""Characters of an error that are kept."""
WORTH_STARTING = 0.3
"""Share of its limit that must be left for a case to be begun."""


def measure(journal: Path, part: Module, cases: list[str], until: float, **bench: Any) -> bool:
    """Measure one case after the other; return whether the device is still sound after the last one."""
    limits = part.cases(bench["toy"])
    with journal.open("a", encoding="utf-8", buffering=1) as stream:

        def tell(**line: Any) -> None:
            stream.write(json.dumps(line) + "\n")

        for case in cases:
            limit = min(limits[case], until - time.time())
            if limit < WORTH_STARTING * limits[case]:
                continue
            tell(began=case, limit=limit)
            try:
                rows = part.measure(case, Bench(until=time.monotonic() + limit, **bench))
            except NotEnoughTimeError as error:
                print(f"{case}: {error}")
                tell(put_back=case)
            except Exception as error:
                traceback.print_exc()
                tell(ended=case, failed=f"{type(error).__name__}: {error}"[-LAST:])
            else:
                tell(ended=case, rows=rows)
            if not _sound(bench["device"]):
                return False
    return True


def _sound(device: str) -> bool:
    """Free what a case held; False where an error of the device stays with this process."""
    gc.collect()
    if device != "cuda" or "torch" not in sys.modules:
        return True
    import torch

    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


def facts() -> dict[str, Any]:
    """What this machine is; "device" is the name of the first GPU, or "CPU"."""
    import torch

    from benchmarks.machine import describe

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    machine = describe(packages=("torchvision", "triton", "lightning", "torchao", "brevitas"))
    # Triton compiles with the system's compiler, against Python's headers.
    header = Path(sysconfig.get_path("include")) / "Python.h"
    machine |= {"C compiler": shutil.which("cc") or shutil.which("gcc") or "none", "Python.h": str(header.exists())}
    return {"device": name, "machine": machine}


def main() -> int:
    """Measure what the driver asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module", nargs="?")
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--journal", type=Path)
    parser.add_argument("--until", type=float, help="seconds since the epoch")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    if options.module is None:
        print(json.dumps(facts()))
        return 0
    sound = measure(
        options.journal, module(options.module), options.cases, options.until,
        device=options.device, toy=options.toy, scratch=options.scratch, data=options.data,
    )  # fmt: skip
    return 0 if sound else 3


if __name__ == "__main__":
    sys.exit(main())
