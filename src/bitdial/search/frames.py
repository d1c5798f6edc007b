"""The tables that a user gets: pandas DataFrames of runs, of configurations, and of the best ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bitdial.search.columns import MISSING, Column, free, is_number
from bitdial.search.groups import Configuration, Ranked
from bitdial.search.table import RunTable

if TYPE_CHECKING:
    from pandas import DataFrame, Series


def frame_of_runs(table: RunTable) -> DataFrame:
    """Return a row a run: parameters, metrics, and our own columns, whose names begin with an underscore."""
    import pandas as pd

    runs, index = table.runs, pd.Index([run.name for run in table.runs], name="run", dtype=object)
    columns = {c.name: _series(c.values, index) for c in (*table.parameters.values(), *table.metrics.values())}
    absent = [[m.name for m in table.metrics.values() if m.values[i] is MISSING] for i in range(len(runs))]
    own: dict[str, list[Any]] = {
        "_source": [run.source for run in runs],
        "_state": [run.state for run in runs],
        "_steps": [MISSING if run.steps is None else run.steps for run in runs],
        "_group": [run.group for run in runs],
        "_path": [str(run.path) for run in runs],
        "_notes": [
            "; ".join([*run.notes, *([f"no {', '.join(none)}"] if none else [])])
            for run, none in zip(runs, absent, strict=True)
        ],
    }
    return pd.DataFrame({**columns, **{name: _series(values, index) for name, values in own.items()}}, index=index)


def frame_of_groups(table: RunTable, groups: Sequence[Configuration], metrics: Sequence[Column]) -> DataFrame:
    """Return a row a configuration: its settings, and of each metric mean, ends of the interval, and how many runs."""
    import pandas as pd

    index = pd.RangeIndex(len(groups))
    columns = {c.name: _series([group.settings[c.name] for group in groups], index) for c in table.settings}
    taken = {*columns}
    for metric in metrics:
        values = [group.interval(metric) for group in groups]
        for part, kind in (("mean", ""), ("low", " low"), ("high", " high"), ("n", " n")):
            found = [
                math.nan if value is None or getattr(value, part) is None else getattr(value, part) for value in values
            ]
            name = free(metric.name + kind, taken, "metric")
            columns[name] = _series([0 if part == "n" and n != n else n for n in found], index)
    columns["_runs"] = _series([[table.runs[run].name for run in group.runs] for group in groups], index)
    return pd.DataFrame(columns, index=index)


def frame_of_best(table: RunTable, ranked: Sequence[Ranked]) -> DataFrame:
    """Return a row a configuration, the best first: its settings, mean, interval, runs, and what they allow to say."""
    import pandas as pd

    index = pd.RangeIndex(1, len(ranked) + 1, name="rank")
    own: dict[str, list[Any]] = {
        "_mean": [each.value.mean for each in ranked],
        "_low": [math.nan if each.value.low is None else each.value.low for each in ranked],
        "_high": [math.nan if each.value.high is None else each.value.high for each in ranked],
        "_n": [each.value.n for each in ranked],
        "_verdict": [each.verdict for each in ranked],
        "_runs": [[table.runs[run].name for run in each.configuration.runs] for each in ranked],
    }
    columns = {c.name: _series([each.configuration.settings[c.name] for each in ranked], index) for c in table.settings}
    return pd.DataFrame({**columns, **{name: _series(values, index) for name, values in own.items()}}, index=index)


def _series(values: Sequence[Any], index: Any) -> Series:
    """Numbers as numbers, with NaN for what is missing; all else as it is, with None."""
    import pandas as pd

    there = [value for value in values if value is not MISSING and value is not None]
    if there and all(isinstance(value, bool) for value in there) and len(there) == len(values):
        return pd.Series(list(values), index=index, dtype=bool)
    if there and all(map(is_number, there)):
        whole = len(there) == len(values) and all(isinstance(v, int) and abs(v) < 2**63 for v in there)
        numbers = [math.nan if value is MISSING or value is None else value for value in values]
        return pd.Series(numbers, index=index, dtype="int64" if whole else "float64")
    return pd.Series([None if value is MISSING else value for value in values], index=index, dtype=object)
