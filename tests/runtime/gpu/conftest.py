"""These tests need Triton's interpreter, which must be chosen before Triton is imported.

So they are collected with ``TRITON_INTERPRET=1`` alone; `tests/runtime/test_gpu.py` runs them so, in a process of its
own.
"""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
