"""Callbacks that turn the dial in other people's training loops."""
