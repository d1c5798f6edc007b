"""The form of a recipe has every option, with its help, and says with it what the command line would."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitdial.app.web.form import NO_PRESET, NONE, NOT_HERE, check, config_of, form_of, presets_of, set_by
from bitdial.app.web.rooted import Roots
from bitdial.configuration.settings import Settings
from bitdial.errors import BitdialError
from bitdial.recipes import RECIPES, find_choices

NOWHERE = Roots(Path("runs"))
"""No folder is open."""
each_recipe = pytest.mark.parametrize("recipe", list(RECIPES))


@each_recipe
def test_every_option_has_a_field_with_its_help(recipe: str) -> None:
    form = form_of(recipe)
    options = {each.name for each in Settings(find_choices(recipe).options)}
    assert set(form.fields) == options - set(NOT_HERE)
    shown = [*form.open, *(field for fields in form.folded.values() for field in fields)]
    assert sorted(field.name for field in shown) == sorted(form.fields)  # each once
    assert [field.name for field in shown if not field.help] == []
    assert [field.name for field in shown if not field.label.strip()] == []


@each_recipe
def test_fields_that_nobody_touched_say_nothing(recipe: str) -> None:
    values = {name: field.default == "true" if field.kind == "switch" else field.default
              for name, field in form_of(recipe).fields.items()}  # fmt: skip
    found = check(recipe, NO_PRESET, values, NOWHERE)
    assert (found.words, dict(found.faults), dict(found.options)) == ([recipe], {}, {})


def test_values_go_through_unchanged() -> None:
    given = {"model": "tiny_cnn", "lr": "0.025", "steps": "7", "seeds": "2", "limit_train": NONE, "nesterov": True}
    found = check(
        "joint", NO_PRESET, {name: value for name, value in given.items() if name in form_of("joint").fields}, []
    )
    assert not found.faults
    assert found.options["model"] == "tiny_cnn"
    assert (float(found.options["lr"]), int(found.options["steps"])) == (0.025, 7)
    assert "lr: 0.025\n" in config_of("joint", found.words[1:])


def test_a_field_set_back_to_its_default_wins_over_a_preset() -> None:
    assert set_by("cyclic", "aggressive") == {
        "cyclic.bit_width_pattern": "8 2 8 2", "cyclic.cycle_length": "10", "cyclic.smooth_transitions": "false",
    }  # fmt: skip
    form = form_of("cyclic").fields
    values: dict[str, object] = {"cyclic.cycle_length": form["cyclic.cycle_length"].default}
    values |= {"cyclic.smooth_transitions": True, "cyclic.bit_width_pattern": ""}
    found = check("cyclic", "aggressive", values, NOWHERE)
    assert not found.faults
    assert found.words == [
        "cyclic", "aggressive", "--cyclic.cycle_length", form["cyclic.cycle_length"].default,
        "--cyclic.smooth_transitions",
    ]  # fmt: skip
    shown = {**values, "cyclic.cycle_length": "10", "cyclic.smooth_transitions": False}  # as the preset has them
    assert check("cyclic", "aggressive", shown, NOWHERE).words == ["cyclic", "aggressive"]
    assert check("cyclic", NO_PRESET, values, NOWHERE).words == ["cyclic", "--cyclic.smooth_transitions"]
    assert set_by("cyclic", NO_PRESET) == set_by("joint", "nothing") == {}
    for recipe in ("cyclic", "ternary", "joint", "compress"):
        for preset in presets_of(recipe):
            under: dict[str, object] = {
                name: text == "true" if form_of(recipe).fields[name].kind == "switch" else text
                for name, text in set_by(recipe, preset).items()
            }
            assert under
            assert check(recipe, preset, under, NOWHERE).words == [recipe, preset]


def test_a_preset_is_taken_and_what_is_set_wins_over_it() -> None:
    assert "aggressive" in presets_of("cyclic")
    alone = check("cyclic", "aggressive", {}, NOWHERE)
    assert alone.words == ["cyclic", "aggressive"]
    assert config_of("cyclic", alone.words[1:]) != config_of("cyclic", [])
    over = check("cyclic", "aggressive", {"batch_size": "17"}, NOWHERE)
    assert "batch_size: 17\n" in config_of("cyclic", over.words[1:])


@pytest.mark.parametrize(
    ("name", "value"), [("lr", "fast"), ("batch_size", "-"), ("epochs", "--resume"), ("seeds", "1 2")]
)
def test_what_is_wrong_is_blamed_on_its_field(name: str, value: str) -> None:
    found = check("joint", NO_PRESET, {name: value}, NOWHERE)
    assert list(found.faults) == [name]
    assert found.options == {}


def test_a_path_that_is_not_open_is_refused() -> None:
    found = check("joint", NO_PRESET, {"data_path": "/etc"}, NOWHERE)
    assert "start the app with --root FOLDER to open one" in found.faults["data_path"]


def test_there_is_no_form_of_what_is_no_recipe() -> None:
    with pytest.raises(BitdialError, match="did you mean"):
        form_of("jointt")
