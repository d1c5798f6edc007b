"""Joint training: one set of weights that works at many widths."""
