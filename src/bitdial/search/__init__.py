"""Tuning: a space of options that a study searches, and the analyzer of finished runs."""
