import json
import math
import re
from pathlib import Path

import pydantic
import pytest

from bitdial.errors import BitdialError
from bitdial.evaluation import results as general
from bitdial.evaluation.results import (
    ArmRecord,
    ArmResult,
    History,
    Interval,
    Record,
    RunResults,
    Scored,
    WidthScore,
    to_json,
)
from bitdial.recipes.cyclic import CyclicResults, cycles
from bitdial.recipes.cyclic import results as cyclic
from tests.evaluation.fabricate import fabricate

DOCS = Path(__file__).parents[2] / "docs" / "results_schema.md"


def test_round_trip(tmp_path):
    results = fabricate(seeds=2)
    path = results.save(tmp_path / "run" / "cyclic_precision_results.json")
    assert CyclicResults.load(path) == results


def test_the_file_is_strict_json_even_after_divergence(tmp_path):
    results = fabricate(seeds=1, diverged=True)
    text = results.save(tmp_path / "results.json").read_text()

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    content = json.loads(text, parse_constant=refuse)
    assert None in content["arms"][0]["history"]["loss"]
    loaded = CyclicResults.load(tmp_path / "results.json")
    assert sum(math.isnan(loss) for loss in loaded.arms[0].history.loss) == 1
    assert loaded.save(tmp_path / "again.json").read_text() == text


def test_infinity_in_the_configuration_is_null():
    assert json.loads(to_json({"a": [1.0, math.inf], "b": {"c": math.nan}})) == {"a": [1.0, None], "b": {"c": None}}


def test_a_history_stays_on_one_line():
    assert to_json({"loss": [1.0, 2.0], "arms": [{"x": 1}]}).splitlines()[1] == '  "loss": [1.0, 2.0],'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no results at"),
        ("{", "not a JSON file"),
        ("[]", "schema_version 1, got None"),
        ('{"schema_version": 99}', "schema_version 1, got 99"),
        ('{"schema_version": 1}', "created: Field required"),
    ],
)
def test_loading_what_is_not_a_results_file(tmp_path, content, message):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BitdialError, match=re.escape(message)):
        CyclicResults.load(path)


def test_unknown_fields_are_refused(tmp_path):
    path = fabricate(seeds=1).save(tmp_path / "x.json")
    content = json.loads(path.read_text())
    content["arms"][0]["acuracy"] = 1
    path.write_text(json.dumps(content))
    with pytest.raises(BitdialError, match=r"arms\.0\.acuracy"):
        CyclicResults.load(path)


def test_accuracy_is_a_fraction():
    with pytest.raises(pydantic.ValidationError, match="divide a percentage by 100"):
        WidthScore(bits=4, accuracy=93.4, loss=0.2)


def test_history_lists_run_in_parallel_and_rise():
    with pytest.raises(pydantic.ValidationError, match=r"history\.loss must have one entry for each of the 2 steps"):
        History(step=[0, 1], loss=[1.0], bits=[8, 8])
    with pytest.raises(pydantic.ValidationError, match="must rise"):
        History(step=[1, 1], loss=[1.0, 1.0], bits=[8, 8])


def test_one_score_for_each_width():
    arm = fabricate(seeds=1).arms[0].model_dump()
    arm["scores"].append(arm["scores"][0])
    with pytest.raises(pydantic.ValidationError, match="one score for each width"):
        ArmResult.model_validate(arm)


def test_interval_without_ends_has_no_half():
    assert Interval(mean=1.0, n=1).half is None
    assert Interval(mean=1.0, low=0.5, high=1.5, n=2).half == 0.5


def records():
    everything = [value for module in (general, cyclic, cycles) for value in vars(module).values()]
    found = [value for value in everything if isinstance(value, type) and issubclass(value, Record)]
    return [value for value in dict.fromkeys(found) if value not in (Record, ArmRecord, RunResults, Scored)]


@pytest.mark.parametrize("record", records(), ids=lambda record: record.__name__)
def test_every_field_is_described_in_code_and_on_the_page(record):
    page = DOCS.read_text(encoding="utf-8")
    section = page.split(f"## {record.__name__}\n", 1)[1].split("\n## ", 1)[0]
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", section, flags=re.M))
    described = {name: " ".join((field.description or "").split()) for name, field in record.model_fields.items()}
    assert all(described.values())
    assert rows == described
