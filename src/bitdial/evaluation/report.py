"""The comparison of arms as blocks of a page: the answer, accuracy at each width, cost, and differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from bitdial.evaluation import wording
from bitdial.evaluation.page import Block, Cell, Details, Mark, Row, Section, Table, Text
from bitdial.evaluation.recommendation import name_of
from bitdial.evaluation.results import ArmSummary, Comparison, Interval, PairedDifference, Verdict
from bitdial.evaluation.statistics import corrected
from bitdial.evaluation.table import target_widths

_VERDICTS: dict[Verdict, tuple[str, Mark | None]] = {
    "better": ("better", "good"),
    "worse": ("worse", "bad"),
    "inside the interval": ("not told apart", None),
    "no interval": ("one seed: not known", None),
}


def size(comparison: Comparison) -> str:
    """Return how many arms and seeds were compared: ``"9 arms, 3 seeds"``."""
    seeds = _seeds(comparison)
    return f"{len(comparison.summaries)} arms, {'one seed' if seeds == 1 else f'{seeds} seeds'}"


def comparison_section(comparison: Comparison) -> list[Block]:
    """Return the ranking: accuracy of every arm at each target width, and at its own."""
    text_task = any(row.own_perplexity for row in comparison.summaries)
    spread = wording.spread_note(row.seeds for row in comparison.summaries)
    untrained = " Faint italics: a candidate at a width that it was not trained for." if comparison.candidates else ""
    return [
        Section("Comparison"),
        Text(comparison.reason),
        _by_arm(
            comparison,
            {
                "at its\nown width": partial(_own, comparison),
                "own width\n(bits)": lambda row: row.own_label,
                **{f"{key} bits": partial(_accuracy, comparison, key) for key in target_widths(comparison)},
                **({"perplexity": _perplexity} if text_task else {}),
            },
            f"Accuracy in per cent; {spread}. The framed value is what to ship.{untrained}",
            ranked=True,
        ),
        Details(
            "How it was chosen",
            [
                *_how_chosen(comparison),
                Text(
                    "Arms are ranked by accuracy at their own widths. Arms whose difference lies inside its interval, "
                    "and within one percentage point, tie; ties go to the narrower own width, then to the arm cheaper "
                    "to train.",
                    soft=True,
                ),
            ],
        ),
    ]


def _how_chosen(comparison: Comparison) -> list[Block]:
    """Say what was chosen among and how that corrects for their number; nothing where there was no choice."""
    count, seeds = len(comparison.candidates), _seeds(comparison)
    if count < 2:
        return []
    tied = [name_of(item) for item in comparison.candidates if item.tied]
    correction = (
        f". For {count - 1} comparisons each interval is taken at {100 * corrected(count - 1):.4g}% (Bonferroni), "
        "which is wider: the truly best candidate is told apart by chance in fewer than 5 of 100 runs, and ties are "
        "more likely"
    )
    interval = (
        "the interval of their difference, paired by seed, holds 0 and they lie within one percentage point"
        f"{correction if count > 2 else ''}"
        if seeds > 1
        else "their accuracies are equal: one seed has no interval"
    )
    optimistic = (
        f" The accuracy of a winner among {count} over {'one seed' if seeds == 1 else f'{seeds} seeds'}, chosen by the "
        "test data that it is reported on, is slightly optimistic."
        if count > seeds
        else ""
    )
    return [
        Text(
            f"Recommended among {count} candidates, the trained arms at every width below 32 bits and at their own. A "
            f"candidate ties with the most accurate one where {interval}. Ties go to the narrower width, then to one "
            f"that was trained for, then to the arm cheaper to train.{optimistic}",
            soft=True,
        ),
        *([Text(f"These tie: {', '.join(tied)}.", soft=True)] if len(tied) > 1 else []),
    ]


def cost_section(comparison: Comparison) -> list[Block]:
    """Return what every arm cost: simulated BitOps, and beside them the seconds of the same steps."""
    columns: dict[str, Callable[[ArmSummary], str | Cell]] = {
        "Pareto\nfront": lambda row: "yes" if row.pareto else "",
        "BitOps\n(simulated)": lambda row: wording.engineering(row.bitops),
        "seconds\n(wall-clock)": lambda row: wording.seconds(row.seconds),
        "own BitOps\n(simulated)": lambda row: wording.engineering(row.bitops_own),
        "own seconds\n(wall-clock)": lambda row: wording.seconds(row.seconds_own),
        **(
            {"bits of\nthe dial": lambda row: wording.MISSING if row.dial_bits is None else f"{row.dial_bits:.3g}"}
            if any(row.dial_bits is not None for row in comparison.summaries)
            else {}
        ),
        "cost-weighted\nbits": lambda row: f"{row.average_bits:.3g}",
        "accuracy\nper bit": lambda row: f"{row.accuracy_per_bit:.1f}",
    }
    return [
        Section("Cost"),
        _by_arm(
            comparison,
            columns,
            "Simulated BitOps beside the wall-clock seconds of the same steps; means over seeds.",
            ranked=False,
        ),
        Text(
            "BitOps and seconds count what an arm was fine-tuned from too; the “own” columns count its own steps "
            "alone. Bits of the dial are the mean width of quantized layers in training, cost-weighted bits that of "
            "all layers (those left unquantized count as 32), weighted with their multiply-accumulates. Accuracy per "
            "bit is percentage points at the own width, divided by cost-weighted bits. The front is that of accuracy "
            "at the own width against simulated BitOps.",
            soft=True,
        ),
    ]


def difference_section(comparison: Comparison, *, title: str, arm: str) -> list[Block]:
    """Return one arm, called `arm` in headings, against every other, paired by seed; nothing without a pair."""
    if not comparison.cpt_differences:
        return []
    if all(item.verdict == "no interval" for item in comparison.cpt_differences):
        alone = "One seed: no difference between arms has an interval, and a small one may be chance. The accuracies "
        return [Section(title), Text(f"{alone}stand above; --seeds 3 or more compares them in pairs.")]
    verdict = f"{arm} is"
    spread = "both seeds" if all(item.difference.n == 2 for item in comparison.cpt_differences) else "95% interval"
    blocks: list[Block] = [
        Section(title),
        Table(
            columns=["against", verdict, "difference", spread, "seeds", f"{arm} at\n(bits)", "arm at\n(bits)"],
            rows=[_difference(item) for item in comparison.cpt_differences],
            caption=f"Accuracy of the {arm} model minus that of the arm, in percentage points, paired by seed.",
            words=[verdict],
        ),
    ]
    if not all(item.same_width for item in comparison.cpt_differences):
        blocks.append(
            Text(
                f"Where the widths differ, the {arm} model was not scored at the arm's width, and each stands at its "
                "own width. An interval without width comes from seeds that happened to agree: it tells "
                "nothing apart.",
                soft=True,
            )
        )
    return blocks


def _by_arm(
    comparison: Comparison, columns: Mapping[str, Callable[[ArmSummary], str | Cell]], caption: str, *, ranked: bool
) -> Table:
    """Return a table of one row an arm: under each heading what its function makes of the arm."""
    rows = [
        Row(
            f"{row.rank}. {row.name}" if ranked else row.name,
            [shown(row) for shown in columns.values()],
            best=row.name == comparison.recommended,
        )
        for row in comparison.summaries
    ]
    return Table(["arm", *columns], rows, caption)


def _seeds(comparison: Comparison) -> int:
    return max(row.seeds for row in comparison.summaries)


def _accuracy(comparison: Comparison, key: str, row: ArmSummary) -> Cell:
    value, chosen = row.accuracy.get(key), comparison.chosen
    untrained = any((it.arm, it.label, it.trained_for) == (row.name, key, False) for it in comparison.candidates)
    framed = (chosen.arm, chosen.label) == (row.name, key)
    mark: Mark | None = "framed" if framed else "faint" if untrained else None
    return Cell(wording.MISSING, mark) if value is None else _stacked(value, mark)


def _own(comparison: Comparison, row: ArmSummary) -> Cell:
    """The accuracy at the own width, framed where that is recommended and has no column of its own."""
    chosen = comparison.chosen
    framed = (chosen.arm, chosen.label) == (row.name, row.own_label) and row.own_label not in row.accuracy
    return _stacked(row.own, "framed" if framed else None)


def _stacked(value: Interval, mark: Mark | None) -> Cell:
    """An accuracy in per cent; of two seeds both stand below their mean, where a narrow column has room for them."""
    text, _, below = wording.percent(value, sign="").removesuffix(")").partition(" (")
    return Cell(text, mark, below)


def _perplexity(row: ArmSummary) -> str:
    return wording.MISSING if row.own_perplexity is None else f"{row.own_perplexity.mean:.2f}"


def _difference(item: PairedDifference) -> Row:
    words, mark = _VERDICTS[item.verdict]
    return Row(
        item.arm,
        [
            Cell(words, mark),
            wording.points(item.difference.mean),
            wording.reach(item.difference).removeprefix("95% interval ").removeprefix("both seeds: ")
            or wording.MISSING,
            str(item.difference.n),
            f"{item.cpt_bits:g}",
            item.arm_label,
        ],
    )
