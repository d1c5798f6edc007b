"""Layers with formats of their own: the rules, the layers that follow them, and float8 layers."""
