"""What a callback says when the package that it is made for is not installed."""

from __future__ import annotations

from bitdial.errors import BitdialError


class MissingPackageError(BitdialError, ImportError):
    """A package is not installed; the text says how to install it. An `ImportError` too, as that is what is caught."""
