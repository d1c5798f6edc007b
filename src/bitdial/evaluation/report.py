"""The comparison of arms as blocks of a page: the answer, accuracy at each width, cost, and differences."""

from __future__ import annotations

from bitdial.evaluation import wording
from bitdial.evaluation.page import Block, Cell, Mark, Row, Section, Table, Text, Tile
from bitdial.evaluation.results import ArmSummary, Comparison, PairedDifference, Verdict
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


def tiles(comparison: Comparison) -> list[Tile]:
    """Return the numbers of the recommended arm; the sentence that goes before them is ``comparison.reason``."""
    best = comparison.summary(comparison.recommended)
    interval = "" if best.own.half is None else ", 95% interval"
    return [
        Tile(best.name, "recommended"),
        Tile(best.own_label, "bits as shipped"),
        Tile(f"{wording.percent(best.own, sign='')}%", f"accuracy as shipped{interval}"),
        Tile(wording.engineering(best.bitops), "BitOps to train (simulated)"),
        Tile(f"{wording.seconds(best.seconds)} s", "to train (wall-clock)"),
    ]


def comparison_section(comparison: Comparison) -> list[Block]:
    """Return the ranking: accuracy of every arm at each target width, and as it ships."""
    widths = target_widths(comparison)
    text_task = any(row.own_perplexity for row in comparison.summaries)
    spread = " ± half a 95% interval over seeds" if _seeds(comparison) > 1 else "; one seed, so no interval"
    return [
        Section("Comparison"),
        Table(
            columns=[
                "arm",
                *(f"{key} bit" for key in widths),
                "ships at",
                "as shipped",
                *(["perplexity"] if text_task else []),
            ],
            rows=[
                Row(
                    f"{row.rank}. {row.name}",
                    [
                        *(_accuracy(row, key) for key in widths),
                        row.own_label,
                        wording.percent(row.own, sign=""),
                        *([_perplexity(row)] if text_task else []),
                    ],
                    best=row.name == comparison.recommended,
                )
                for row in comparison.summaries
            ],
            caption=f"Accuracy in per cent{spread}. The framed value is what ships.",
        ),
        Text(
            "Ranked by accuracy as shipped. Arms whose difference lies inside its interval, and within one percentage "
            "point, tie; ties go to the arm that ships narrower, then to the one cheaper to train.",
            soft=True,
        ),
    ]


def cost_section(comparison: Comparison) -> list[Block]:
    """Return what every arm cost: simulated BitOps, and beside them the seconds of the same steps."""
    return [
        Section("Cost"),
        Table(
            columns=[
                "arm",
                "average bits\nin training",
                "BitOps\n(simulated)",
                "seconds\n(wall-clock)",
                "own BitOps\n(simulated)",
                "own seconds\n(wall-clock)",
                "accuracy per\naverage bit",
                "Pareto\nfront",
            ],
            rows=[
                Row(
                    row.name,
                    [
                        f"{row.average_bits:.3g}",
                        wording.engineering(row.bitops),
                        wording.seconds(row.seconds),
                        wording.engineering(row.bitops_own),
                        wording.seconds(row.seconds_own),
                        f"{row.accuracy_per_bit:.1f}",
                        "yes" if row.pareto else "",
                    ],
                    best=row.name == comparison.recommended,
                )
                for row in comparison.summaries
            ],
            caption="Simulated BitOps beside the wall-clock seconds of the same steps; means over seeds.",
        ),
        Text(
            "BitOps and seconds count what an arm was fine-tuned from too; the “own” columns count its own steps "
            "alone. Accuracy per average bit is percentage points as shipped, divided by the average width in "
            "training. The front is that of accuracy as shipped against simulated BitOps.",
            soft=True,
        ),
    ]


def difference_section(comparison: Comparison, *, title: str, arm: str) -> list[Block]:
    """Return one arm against every other, paired by seed; nothing where there is nothing to pair.

    Args:
        comparison: the arms side by side.
        title: the heading.
        arm: what the arm that is compared with all others is called in headings.
    """
    if not comparison.cpt_differences:
        return []
    verdict = f"{arm} is"
    blocks: list[Block] = [
        Section(title),
        Table(
            columns=["against", f"{arm} at\n(bits)", "arm at\n(bits)", "difference", "95% interval", "seeds", verdict],
            rows=[_difference(item) for item in comparison.cpt_differences],
            caption=f"Accuracy of the {arm} model minus that of the arm, in percentage points, paired by seed.",
            words=[verdict],
        ),
    ]
    if not all(item.same_width for item in comparison.cpt_differences):
        blocks.append(
            Text(
                f"Where the widths differ, the {arm} model was not scored at the arm's width, and each stands at the "
                "width that it ships at. An interval without width comes from seeds that happened to agree: it tells "
                "nothing apart.",
                soft=True,
            )
        )
    return blocks


def _seeds(comparison: Comparison) -> int:
    return max(row.seeds for row in comparison.summaries)


def _accuracy(row: ArmSummary, key: str) -> Cell:
    value = row.accuracy.get(key)
    text = wording.MISSING if value is None else wording.percent(value, sign="")
    return Cell(text, "framed" if float(key) == row.own_bits else None)


def _perplexity(row: ArmSummary) -> str:
    return wording.MISSING if row.own_perplexity is None else f"{row.own_perplexity.mean:.2f}"


def _difference(item: PairedDifference) -> Row:
    words, mark = _VERDICTS[item.verdict]
    return Row(
        item.arm,
        [
            f"{item.cpt_bits:g}",
            item.arm_label,
            wording.points(item.difference.mean),
            wording.span(item.difference) or wording.MISSING,
            str(item.difference.n),
            Cell(words, mark),
        ],
    )
