"""The errors that a user can meet, and the sentence that helps them out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class BitdialError(ValueError):
    """Something the user can put right; its text says what was expected, what was got, and what to do."""


class RunInterrupted(BitdialError):  # noqa: N818  (an interruption is not a fault)
    """Training was stopped on request; the text says what was reached and how to go on."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name nearest to `name`, or an empty string.

    Where none is near as it is written, capitals do not count: "jpeg" is near to "JPEG".
    """
    plain = {each: each for each in known}
    for names, wanted in ((plain, name), ({each.casefold(): each for each in plain}, name.casefold())):
        if nearest := difflib.get_close_matches(wanted, names, n=1, cutoff=0.5):
            return f"; did you mean '{names[nearest[0]]}'?"
    return ""


@contextmanager
def as_bitdial_errors() -> Iterator[None]:
    """Let a plain `ValueError`, as `bitdial.schedules` raises it, leave the body as a `BitdialError`."""
    try:
        yield
    except BitdialError:
        raise
    except ValueError as error:
        raise BitdialError(str(error)) from error
