"""What is compiled on this machine: torch.compile and the native kernels.

Each is tried in a process of its own: a compiler that hangs or crashes must not take the doctor along.
"""

from __future__ import annotations

import subprocess
import sys

from bitdial.doctor.findings import Finding

TIME_LIMIT = 120.0
"""Seconds given to one trial; a first compilation on a slow machine takes half a minute."""

_TRIAL = """
import sys, time
import torch
device = sys.argv[1]
def f(x, bits):
    return torch.round(torch.sigmoid(x) * torch.exp2(bits)).sum()
x, bits = torch.linspace(-1, 1, 64, device=device, requires_grad=True), torch.tensor(4.0, device=device)
start = time.perf_counter()
y = torch.compile(f, fullgraph=True)(x, bits)
y.backward()
assert torch.allclose(y, f(x, bits)), "the compiled function returns something else"
print(f"{time.perf_counter() - start:.0f}")
"""


_KERNELS = """
from bitdial.numerics import native
print(native.unavailable() or "")
"""


def compilation(device: str, *, limit: float = TIME_LIMIT, trial: str = _TRIAL) -> Finding:
    """Compile a tiny function on `device`, forward and backward, and compare it with the plain one."""
    name = f"{device} torch.compile"
    printed, failure = _tried(trial, device, limit=limit)
    if failure is not None:
        return Finding("compile", name, failure, False)
    return Finding("compile", name, f"first call took {printed.split()[-1]} s", True)


def native_kernels(*, limit: float = TIME_LIMIT, trial: str = _KERNELS) -> Finding:
    """Compile and try the kernels that make fake quantization on a CPU fast, or say why there are none."""
    printed, failure = _tried(trial, limit=limit)
    reason = failure or printed.strip()
    if reason:
        return Finding(
            "compile", "native kernels", f"{reason}; without them the same values take longer on a CPU", False
        )
    return Finding("compile", "native kernels", "compiled; their values are right", True)


def _tried(trial: str, *arguments: str, limit: float) -> tuple[str, str | None]:
    """Run a trial; what it printed, and why it failed or None."""
    command = [sys.executable, "-c", trial, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return "", f"no result within {limit:g} s"
    if done.returncode == 0:
        return done.stdout, None
    lines = [line for line in done.stderr.splitlines() if "Error" in line] or done.stderr.splitlines() or ["no output"]
    return done.stdout, lines[-1].strip()[:200]
