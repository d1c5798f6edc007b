"""Loading: which source wins, what flags may look like, and what comes out."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitdial.configuration import load_config, settings, to_yaml
from tests.configuration.examples import PRESETS, Recipe


def load(*argv: str) -> Recipe:
    return load_config(Recipe, PRESETS, argv, prog="bitdial train example")


@pytest.fixture
def run_yaml(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text("lr: 1e-2\ncyclic:\n  cycle-length: 30\n", encoding="utf-8")
    return path


class TestSources:
    def test_without_words_the_defaults_of_the_model_hold(self) -> None:
        assert load() == Recipe()

    def test_preset_is_the_first_word_or_a_flag(self) -> None:
        assert load("aggressive") == load("--preset", "aggressive")
        assert load("aggressive").cyclic.bit_width_pattern == [8, 2]

    def test_file_wins_over_preset_and_flag_over_file(self, run_yaml: Path) -> None:
        config = load("aggressive", "--config", str(run_yaml))
        assert (config.cyclic.cycle_length, config.lr, config.epochs) == (30, 0.01, 2)
        assert load("aggressive", "--cyclic.cycle_length", "7", "--config", str(run_yaml)).cyclic.cycle_length == 7

    def test_setting_one_field_of_a_group_keeps_the_others_of_the_groups_default(self) -> None:
        config = load("--static.test_configurations", "{3bit: 3}")
        assert config.static.test_configurations == {"3bit": 3}
        assert config.static.finetune_lr_scale == 0.25

    def test_the_last_of_exclusive_settings_wins(self) -> None:
        config = load("aggressive", "--steps", "40")
        assert (config.epochs, config.steps) == (None, 40)

    def test_empty_file_means_defaults(self, tmp_path: Path) -> None:
        path = tmp_path / "empty.yaml"
        path.write_text("# nothing yet\n", encoding="utf-8")
        assert load("--config", str(path)) == Recipe()


class TestFlags:
    @pytest.mark.parametrize("flag", ["--cyclic.cycle_length", "--cyclic.cycle-length"])
    def test_hyphens_and_underscores_are_alike(self, flag: str) -> None:
        assert load(flag, "9").cyclic.cycle_length == 9

    def test_value_after_equals_sign(self) -> None:
        assert load("--lr=3e-4", "--run_dir=-odd=name").run_dir == Path("-odd=name")

    def test_alias_stands_for_its_field(self) -> None:
        assert load("--learning-rate", "0.3").lr == 0.3

    def test_list_takes_many_values_or_one(self) -> None:
        assert load("--cyclic.bit_width_pattern", "8", "4.5", "2").cyclic.bit_width_pattern == [8, 4.5, 2]
        assert load("--cyclic.bit_width_pattern", "4").cyclic.bit_width_pattern == [4]
        assert load("--stages", "3").stages == [3]
        assert load("--cyclic.bit_width_pattern", "[8, 2]").cyclic.bit_width_pattern == [8, 2]

    def test_union_takes_each_of_its_types(self) -> None:
        assert load("--devices", "2").devices == 2
        assert load("--devices", "0", "1").devices == [0, 1]
        assert load("--devices", "auto").devices == "auto"

    def test_negative_number_is_a_value(self) -> None:
        assert load("--devices", "-1").devices == -1

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (["--cyclic.smooth"], True),
            (["--cyclic.smooth", "true"], True),
            (["--cyclic.smooth", "false"], False),
            (["--cyclic.no_smooth"], False),
            (["--no-cyclic.smooth"], False),
        ],
    )
    def test_switch(self, words: list[str], expected: bool) -> None:
        assert load(*words).cyclic.smooth is expected

    def test_resume_stands_alone_or_names_a_folder(self) -> None:
        assert load("--resume").resume is True
        assert load("--resume", "runs/example-1").resume == Path("runs/example-1")

    def test_text_that_looks_like_something_else_stays_text(self) -> None:
        assert load("--dataset", "2024").dataset == "2024"
        assert load("--dataset", "on").dataset == "on"
        assert load("--dataset", "2024-01-01").dataset == "2024-01-01"

    def test_none_clears_an_optional_setting(self) -> None:
        assert load("aggressive", "--epochs", "none").epochs is None

    def test_positional_word_fills_the_named_setting(self) -> None:
        config = load_config(Recipe, {}, ["runs/example-1", "--lr", "1"], positional="run_dir")
        assert config.run_dir == Path("runs/example-1")


class TestYaml:
    def test_config_file_reads_back_equal(self, tmp_path: Path) -> None:
        words = ["research", "--run_dir", "runs/x", "--cyclic.lr_scale_factors", "{2: 1e-5, 8: 1}", "--steps", "3"]
        config = load(*words, "--model_options", "{n_layer: 2, act: gelu, path: [1, 2]}", "--weight_decay", "1e-05")
        path = tmp_path / "config.yaml"
        path.write_text(to_yaml(config), encoding="utf-8")
        assert load("--config", str(path)) == config

    def test_every_setting_stands_in_the_file(self) -> None:
        text = to_yaml(Recipe())
        assert all(f"{setting.name.rpartition('.')[2]}:" in text for setting in settings(Recipe))

    def test_exponents_are_numbers_and_words_are_words(self, tmp_path: Path) -> None:
        path = tmp_path / "c.yaml"
        path.write_text("model_options: {a: 1e-3, b: on, c: true, d: 1.e+2, e: -.5, f: 2024-01-01}\n", encoding="utf-8")
        expected = {"a": 1e-3, "b": "on", "c": True, "d": 100.0, "e": -0.5, "f": "2024-01-01"}
        assert load("--config", str(path)).model_options == expected


class TestHelp:
    @pytest.fixture
    def help_text(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as exit_:
            load("aggressive", "--help")
        assert exit_.value.code == 0
        return capsys.readouterr().out

    def test_fits_eighty_columns(self, help_text: str) -> None:
        assert max(len(line) for line in help_text.splitlines()) <= 80

    def test_names_every_flag_that_the_parser_knows(self, help_text: str) -> None:
        for setting in settings(Recipe):
            assert f" {setting.flag} " in help_text.replace(",", " ")

    def test_shows_presets_docs_and_the_defaults_of_the_preset(self, help_text: str) -> None:
        words = " ".join(help_text.replace("│", " ").split())
        assert "Presets: aggressive, research." in words
        assert "Widths that a cycle visits, stretched evenly over its length. (default: 8.0 2.0)" in words
        assert "--cyclic.lr_scale_factors '{KEY: VALUE, ...}'" in words

    def test_comes_whatever_else_the_line_says(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            load("--no_such_flag", "-h")
        assert "--cyclic.cycle_length INT" in capsys.readouterr().out
