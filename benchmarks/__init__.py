"""Benchmarks: each measures both sides in one run, prints a table and writes JSON under ``results``."""
