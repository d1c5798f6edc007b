"""Training, benchmarks and advice for people who write no code: jobs that outlive what started them, and a web page."""

from bitdial.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
