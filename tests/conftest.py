"""Settings for all tests."""

from __future__ import annotations

import torch

# Small networks: a second thread costs more than it gives, on a busy machine milliseconds an operation. Set here alone:
# a run and its resumption are the same bit for bit only with the same number of threads.
torch.set_num_threads(1)
