"""The scripts under examples/ run as they stand, each in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_mixed_precision() -> None:
    script = EXAMPLES / "mixed_precision.py"
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert (ran.returncode, ran.stderr) == (0, "")
    found = re.fullmatch(r"loss ([\d.]+), 290 steps\n", ran.stdout)
    assert found is not None, ran.stdout
    assert float(found[1]) < 0.3
    lines = [
        line for line in script.read_text().splitlines() if line and not line.startswith(("import", "from", '"""'))
    ]
    assert len(lines) <= 10
