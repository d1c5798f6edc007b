"""Tests of the numerics room."""
