"""Several losses in balance: their weights, optimizers that step on them, gamma over a run."""
