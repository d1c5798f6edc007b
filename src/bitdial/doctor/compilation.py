"""torch.compile, tried in a process of its own: a compiler that hangs or crashes must not take the doctor along."""

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


def compilation(device: str, *, limit: float = TIME_LIMIT, trial: str = _TRIAL) -> Finding:
    """Compile a tiny function on `device`, forward and backward, and compare it with the plain one."""
    name = f"{device} torch.compile"
    command = [sys.executable, "-c", trial, device]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return Finding("compile", name, f"no result within {limit:g} s", False)
    if done.returncode == 0:
        return Finding("compile", name, f"first call took {done.stdout.split()[-1]} s", True)
    lines = [line for line in done.stderr.splitlines() if "Error" in line] or done.stderr.splitlines() or ["no output"]
    return Finding("compile", name, lines[-1].strip()[:200], False)
