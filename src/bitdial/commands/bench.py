"""The command ``bitdial bench SUBJECT``: measure on this machine."""

from __future__ import annotations

from pkgutil import resolve_name

from bitdial.errors import BitdialError, suggest

PROG = "bitdial bench"
SUBJECTS: dict[str, tuple[str, str]] = {
    "amp": ("bitdial.commands.bench_amp:run", "mixed precision: training steps in float32 and in a narrow format"),
    "runtime": ("bitdial.commands.bench_runtime:run", "a trained network in the packed runtime and in others"),
    "codec": ("bitdial.commands.bench_codec:run", "a codec beside JPEG, WebP and AVIF, on your own pictures"),
}
"""What can be measured -> ``module:function`` that does, called with the words after it, and a line of help."""


def run(argv: list[str]) -> int:
    """Find the subject and measure it; return the exit status."""
    known = ", ".join(SUBJECTS)
    if not argv:
        raise BitdialError(f"expected what to measure, got nothing; there are: {known}; e.g. `{PROG} amp`")
    subject, *rest = argv
    if subject in ("-h", "--help"):
        print(_help())
        return 0
    if subject.startswith("-"):
        raise BitdialError(f"expected what to measure before the flags, got '{subject}'; e.g. `{PROG} amp {subject}`")
    if subject not in SUBJECTS:
        hint = suggest(subject, SUBJECTS)
        raise BitdialError(f"expected what to measure, got '{subject}'; there are: {known}{hint}")
    return int(resolve_name(SUBJECTS[subject][0])(rest))


def _help() -> str:
    subjects = "\n".join(f"  {name:<10} {summary}" for name, (_, summary) in SUBJECTS.items())
    return (
        f"usage: {PROG} SUBJECT [--flag value ...]\n\nMeasure on this machine.\n\nsubjects:\n{subjects}\n\n"
        f"`{PROG} SUBJECT --help` lists its flags."
    )
