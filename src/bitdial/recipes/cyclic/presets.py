"""Ready settings by name."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "conservative": {
        "cyclic": {"bit_width_pattern": [8, 6, 4, 6, 8], "cycle_length": 40, "smooth_transitions": True},
    },
    "aggressive": {
        "cyclic": {"bit_width_pattern": [8, 2, 8, 2], "cycle_length": 10, "smooth_transitions": False},
    },
    "research": {
        "seeds": 3,
        "experiment": {"analyze_cycles": True, "save_cycle_checkpoints": True, "ablations": ["random_cycling"]},
    },
}
"""Name -> settings, written as in a YAML file: ``bitdial train cyclic conservative``."""
