"""Whether the data of a run is still that which it began with; if not, what it goes on with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from bitdial.data import Fingerprint
from bitdial.errors import BitdialError
from bitdial.own_files import digest, is_place
from bitdial.recipes.recipe import Work
from bitdial.training import RunFolder

W = TypeVar("W", bound=Work)


def noted(data: Fingerprint, state: Mapping[str, Any], file: Path | None) -> Fingerprint:
    """Data with a remark where a run begins with the state of a file that was trained on other data."""
    before = (state.get("network") or {}).get("examples")
    if not before or before == data.short():
        return data
    told = f"The run began with {file}, which was trained on other data: test images may have been among that."
    return data.model_copy(update={"changes": [*data.changes, told]})


def seen(trained_on: Fingerprint, tested_on: Fingerprint) -> int:
    """How many examples of a test part are training or validation examples elsewhere, by name and content."""
    theirs = {part: each for part, each in trained_on.parts.items() if isinstance(each, dict)}
    known = {(name, mark) for part in theirs.keys() - {"test"} for name, (_, mark) in theirs[part].items()}
    test = tested_on.parts.get("test")
    return sum((name, mark) in known for name, (_, mark) in test.items()) if isinstance(test, dict) else 0


def sources_of(options: object) -> dict[str, str]:
    """The functions of the user's own files that options name, with the digests of their files."""
    if isinstance(options, Mapping):
        return {place: mark for value in options.values() for place, mark in sources_of(value).items()}
    return {str(options): digest(str(options))} if is_place(str(options)) else {}


def settle(
    work: W, folder: RunFolder | None, *, accept: bool, sources: Mapping[str, str] | None = None
) -> tuple[W, Fingerprint]:
    """The data that a run uses: all there is of a new one, of an older one what it began with.

    Args:
        work: with the data as it lies there today.
        folder: of the run; None: a new one.
        accept: whether the data may have changed.
        sources: of `sources_of`; a file that has changed is noted, as it may well make the same.

    Returns:
        The data, divided as when the run began, and what is to be kept of it in the run's folder.

    Raises:
        BitdialError: it changed, and that is not accepted; or nothing of it is left to go on with.
    """
    today = work.identify().model_copy(update={"sources": dict(sources or {})})
    if folder is None:
        return work, today
    if not folder.data.is_file():
        told = f"{folder.path} does not say which data it began with: whether that has changed cannot be checked."
        return work, today.model_copy(update={"changes": [told]})
    before = Fingerprint.read(folder.data)
    now, renamed = today.in_terms_of(before)
    changes = [f"the class '{old}' is called '{new}'" for new, old in renamed.items()] + now.changes_since(before)
    told = "; ".join(changes)
    if changes and not accept:
        raise BitdialError(
            f"expected the data that {folder.path} began with, got other data: {told}. Put it back as it was, or give "
            "--accept_changed_data to go on with what is left of it"
        )
    kept = work.divided_as(before, now)
    used = today if kept is work else kept.identify()
    files = {place.rpartition(":")[0] for place, mark in today.sources.items() if before.sources.get(place) != mark}
    edited = [f"{file} has changed since the run began: network or data may be others." for file in sorted(files)]
    names = used.examples()
    left_out = [name for name in today.examples() if name not in names]
    how = (
        "it is used as it is given now"
        if kept is work
        else "examples stay in the part that they were in, and what came later is left out"
    )
    accepted = [f"The data has changed since the run began ({told}); {how}."] if changes else []
    kept_notes = [*before.changes, *accepted, *edited]
    return kept, used.model_copy(update={"left_out": left_out, "changes": kept_notes, "sources": today.sources})
