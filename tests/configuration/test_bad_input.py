"""Whatever a user gets wrong comes back as one sentence: what was expected, what was got, what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from bitdial.configuration import Config, load_config
from bitdial.errors import BitdialError
from tests.configuration.examples import PRESETS, Recipe

HELP = "see `bitdial train example --help`"


def complaint(*argv: str) -> str:
    with pytest.raises(BitdialError) as caught:
        load_config(Recipe, PRESETS, argv, prog="bitdial train example")
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--lrr 0.1", "unknown flag --lrr; did you mean '--lr'?"),
        ("--cycle_length 3", "unknown flag --cycle_length; did you mean '--cyclic.cycle_length'?"),
        ("--zzz 1", "unknown flag --zzz; `bitdial train example --help` lists the flags"),
        ("-lr 1", "unknown flag -lr; did you mean '--lr'?"),
        ("--cyclic 3", "--cyclic is a group of flags, expected one of its flags, e.g. --cyclic.cycle_length"),
        ("--lr", "--lr: expected a number after the flag, got nothing; write --lr VALUE"),
        ("--lr --steps 3", "--lr: expected a number after the flag, got nothing; write --lr VALUE"),
        ("--stages", "--stages: expected a list of whole numbers after the flag, got nothing; write --stages VALUE"),
        ("--lr abc", f"--lr: expected a number, got 'abc'; {HELP}"),
        ("--lr true", f"--lr: expected a number, got 'true'; {HELP}"),
        ("--lr inf", f"--lr: expected a finite number, got 'inf'; {HELP}"),
        ("--lr nan", f"--lr: expected a finite number, got 'nan'; {HELP}"),
        ("--epochs inf", f"--epochs: expected a whole number or none, got 'inf'; {HELP}"),
        ("--lr -1", f"--lr: expected a value greater than 0, got -1; {HELP}"),
        ("--lr 1 2", "--lr: expected a number, got '1' '2'; give one value"),
        ("--lr 1 --lr 2", "expected each flag once, got --lr twice; remove one of them"),
        (
            "--lr 1 --learning-rate 2",
            "expected each flag once, got --lr and --learning-rate, two names of the same; remove one of them",
        ),
        ("--epochs 1.5", f"--epochs: expected a whole number or none, got 1.5; {HELP}"),
        ("--epochs 1 --steps 2", "epochs and steps exclude each other, got both; give only one of them"),
        ("--stages 1,2", "--stages: expected a list of whole numbers, got '1,2'; separate the values with spaces"),
        ("--stages []", f"--stages: list should have at least 1 item after validation, not 0; {HELP}"),
        ("--devices x", f"--devices: expected a whole number or a list of whole numbers or 'auto', got 'x'; {HELP}"),
        ("--compile maybe", f"--compile: expected true or false, got 'maybe'; {HELP}"),
        ("--no_compile 3", "--no_compile takes no value, got '3'; write --compile 3 instead"),
        (
            "--cyclic.profile cosin",
            "--cyclic.profile: expected one of 'cosine', 'linear' or none, got 'cosin'; did you mean 'cosine'?",
        ),
        (
            "--cyclic.bit_width_pattern 8 0",
            "--cyclic.bit_width_pattern: bits must be in [1, 32], got 0; choose widths such as 2, 4 or 8",
        ),
        ("--cyclic.lr_scale_factors 3", f"--cyclic.lr_scale_factors: expected a mapping {{key: value}}, got 3; {HELP}"),
        (
            "--cyclic.lr_scale_factors {2: .5}",
            "--cyclic.lr_scale_factors: expected one word, got 2; quote it: --cyclic.lr_scale_factors '{2: .5}'",
        ),
        (
            "agressive",
            "expected a preset (aggressive, research) or a flag, got 'agressive'; did you mean 'aggressive'?",
        ),
        (
            "aggressive --preset research",
            "expected one preset, got 'aggressive' and --preset research; remove one of them",
        ),
        ("aggressive 3", "expected a flag, got '3'; flags start with '--', `bitdial train example --help` lists them"),
        (
            "run.yaml",
            "expected a preset or a flag, got the file 'run.yaml'; write `bitdial train example --config run.yaml`",
        ),
        ("--config", "--config: expected a file after the flag, got nothing; write --config VALUE"),
    ],
)
def test_words(words: str, expected: str) -> None:
    # "{2: .5}" arrives as two words, as an unquoted one does from a shell
    assert complaint(*words.split(" ")) == expected


def test_wrong_value_inside_a_mapping_names_its_key() -> None:
    assert complaint("--cyclic.lr_scale_factors", "{2: a}").startswith(
        "--cyclic.lr_scale_factors: for '2' expected a number, got 'a'"
    )


def test_word_where_there_are_no_presets() -> None:
    with pytest.raises(BitdialError, match="expected a flag, got 'fast'; flags start with '--'"):
        load_config(Recipe, {}, ["fast"])


def test_missing_positional_word() -> None:
    class Measure(Config):
        """Measure a run."""

        run: Path
        """Folder of the run."""

    with pytest.raises(BitdialError) as caught:
        load_config(Measure, None, [], prog="bitdial measure", positional="run")
    assert str(caught.value) == "expected RUN after the command, got nothing; write `bitdial measure RUN`"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "lr: 0.1\ncyclic:\n  cycle_lenght: 3\n",
            "FILE, line 3: unknown setting 'cyclic.cycle_lenght'; did you mean 'cyclic.cycle_length'?",
        ),
        ("lr: abc\n", f"FILE, line 1: lr: expected a number, got 'abc'; {HELP}"),
        ("epochs: true\n", "FILE, line 1: epochs: expected a whole number or none, got true; replace it"),
        (
            "cyclic: 3\n",
            "FILE, line 1: cyclic: expected settings of this group {key: value}, got 3; "
            "e.g. 'cycle_length: ...' on a line of its own, indented",
        ),
        ("lr: 1\nlr: 2\n", "FILE, line 2: key 'lr' stands twice, first in line 1; remove one of the two"),
        (
            "lr: 1\nlearning_rate: 2\n",
            "FILE, line 2: lr: 'lr' is set twice here, under two spellings; remove one of them",
        ),
        (
            "cyclic:\n\tprofile: cosine\n",
            "FILE, line 2, column 1: expected YAML, got a syntax error (found character '\\t' that cannot start any "
            "token); write 'key: value' lines, indented with spaces",
        ),
        ("- 1\n- 2\n", "config file 'FILE' must hold 'key: value' lines, got a list; e.g. the line 'epochs: 3'"),
        (
            "stages: [1, x]\n",
            f"FILE, line 1: stages: expected a list of whole numbers, got 'x'; {HELP}",
        ),
    ],
)
def test_file(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    assert complaint("--config", str(path)) == expected.replace("FILE", str(path))


def test_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("", encoding="utf-8")
    wrong = tmp_path / "studdy.yaml"
    assert complaint("--config", str(wrong)).endswith(f"'{wrong}' does not exist; did you mean 'study.yaml'?")


def test_folder_for_a_file(tmp_path: Path) -> None:
    assert complaint("--config", str(tmp_path)).endswith(f"a run's own is {tmp_path / 'config.yaml'}")


def test_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"\xff\xfe\x00\x80")
    assert complaint("--config", str(path)) == f"config file '{path}' is not UTF-8 text; give a YAML file"


def test_mistake_in_a_preset_names_the_preset() -> None:
    with pytest.raises(BitdialError, match="preset 'bad': unknown setting 'lrr'; did you mean 'lr'"):
        load_config(Recipe, {"bad": {"lrr": 1}}, ["bad"])


def test_python_users_meet_the_same_checks() -> None:
    with pytest.raises(ValidationError, match="exclude each other"):
        Recipe(epochs=1, steps=2)
    config = Recipe()
    with pytest.raises(ValidationError, match="greater than 0"):
        config.lr = -1
    with pytest.raises(ValidationError, match="extra"):
        Recipe.model_validate({"learningrate": 1})
