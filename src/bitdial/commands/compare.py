"""The command ``bitdial compare RUN RUN ...``: what finished runs would ship, side by side."""

from __future__ import annotations

from pathlib import Path

from bitdial.configuration import Config, load_config, take_operands
from bitdial.errors import BitdialError
from bitdial.lazy import loading_torch
from bitdial.training.run_folder import RunFolder


class CompareConfig(Config):
    """Compare what finished runs would ship: accuracy or quality, size, cost, and how sure the differences are.

    Runs of any recipes, any number of them. Scores on other test data are shown, and not compared.
    E.g. `bitdial compare runs/cyclic-1 runs/ternary-1`.
    """

    report: Path | None = Path("comparison.html")
    """File to write the page to, .html; none: no page."""


def run(argv: list[str]) -> int:
    """Print the table and write the page; return the exit status."""
    words, flags = take_operands(CompareConfig, argv)
    options = load_config(CompareConfig, {}, flags, prog="bitdial compare", positional="run run ...")
    if len(words) < 2:
        raise BitdialError(
            f"expected two folders of runs or more to compare, got {len(words)}; e.g. `bitdial compare runs/cyclic-1 "
            "runs/cyclic-2`"
        )
    if options.report is not None and (
        options.report.suffix.lower() not in (".html", ".htm") or options.report.is_dir()
    ):
        raise BitdialError(f"--report: expected a file that ends in .html, or none, got '{options.report}'")
    folders = [RunFolder.open(Path(word)) for word in words]
    loading_torch()
    from bitdial.commands.compare_run import compare

    return compare(folders, options.report)
