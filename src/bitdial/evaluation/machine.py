"""What a measurement ran on; nothing that tells whose machine it is."""

from __future__ import annotations

import platform

from bitdial import machine
from bitdial.evaluation.results import Machine

_LIBRARIES = ("bitdial", "torch", "torchvision", "lightning", "numpy", "pydantic", "transformers", "timm")


def describe_machine() -> Machine:
    """Return the processor, the accelerators and the versions that numbers measured now depend on."""
    return Machine(
        system=f"{machine.system()} ({platform.machine()})",
        processor=machine.processor(),
        cores=machine.usable_cores(),
        memory_gib=round(machine.total_memory() / 2**30, 1),
        accelerators=machine.gpu_names(),
        python=platform.python_version(),
        versions=machine.versions(_LIBRARIES),
    )
