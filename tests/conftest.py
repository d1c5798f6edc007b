"""Settings for all tests."""

from __future__ import annotations

import os

import torch

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
