"""The command line: it finds commands, and says in one sentence what a user got wrong."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

import bitdial
from bitdial.cli import main
from bitdial.commands import COMMANDS
from bitdial.errors import BitdialError, RunInterrupted
from bitdial.recipes import RECIPES, find_recipe


class Model(BaseModel):
    bits: int


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """A command `try` that raises what the test puts under ``"error"`` and keeps the words that it got."""
    state: dict[str, object] = {}

    def run(words: list[str]) -> int:
        state["words"] = words
        error = state.get("error")
        if callable(error):
            error()
        if isinstance(error, BaseException):
            raise error
        return 0

    monkeypatch.setattr(sys.modules[__name__], "attempt", run, raising=False)
    monkeypatch.setitem(COMMANDS, "try", (f"{__name__}:attempt", "for tests"))
    monkeypatch.delenv("BITDIAL_DEBUG", raising=False)
    return state


class TestFinding:
    @pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
    def test_help_lists_commands_and_recipes(self, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(words) == 0
        text = capsys.readouterr().out
        assert all(f"  {name} " in text for name in ("train", *COMMANDS, *RECIPES))
        assert max(len(line) for line in text.splitlines()) <= 80

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--version"]) == 0
        assert capsys.readouterr().out == f"bitdial {bitdial.__version__}\n"

    def test_command_gets_the_words_after_it(self, command: dict[str, object]) -> None:
        assert main(["try", "a", "--b", "3"]) == 0
        assert command["words"] == ["a", "--b", "3"]

    def test_train_alone_lists_the_recipes_and_fails(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["train"]) == 2
        assert RECIPES["cyclic"][1] in capsys.readouterr().out

    def test_train_hands_its_words_to_the_recipe(self, monkeypatch: pytest.MonkeyPatch) -> None:
        got: list[object] = []
        monkeypatch.setattr("bitdial.recipes.start.command", lambda recipe, words: got.extend([recipe, words]) or 7)
        assert main(["train", "cyclic", "research", "--lr", "1"]) == 7
        assert got == [find_recipe("cyclic"), ["research", "--lr", "1"]]

    @pytest.mark.parametrize("home", [home for home, _ in COMMANDS.values()])
    def test_every_entry_point_exists(self, home: str) -> None:
        module, _, name = home.partition(":")
        assert callable(getattr(importlib.import_module(module), name))

    @pytest.mark.parametrize("name", RECIPES)
    def test_every_recipe_is_a_record_of_its_name(self, name: str) -> None:
        assert find_recipe(name).name == name

    def test_every_recipe_has_a_summary_that_fits_the_help(self) -> None:
        assert max(len(text) for _, text in RECIPES.values()) <= 67


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["--verson"], "unknown flag '--verson'; did you mean '--version'?"),
        (["qqq"], "unknown command 'qqq'; `bitdial --help` lists the commands"),
        (["cyclic"], "expected a command, got the recipe 'cyclic'; write `bitdial train cyclic`"),
        (["train", "cylic"], "unknown recipe 'cylic'; did you mean 'cyclic'?"),
        (["train", "zzz"], f"unknown recipe 'zzz'; there are: {', '.join(RECIPES)}"),
        (["train", "--lr", "1"], "expected a recipe before the flags, got '--lr'; e.g. `bitdial train cyclic --lr`"),
        (["doctor", "--jsn"], "unknown flag --jsn; did you mean '--json'?"),
    ],
)
def test_mistyped(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"bitdial: {expected}\n")


class TestErrors:
    def test_bitdial_error_is_its_sentence(
        self, command: dict[str, object], capsys: pytest.CaptureFixture[str]
    ) -> None:
        command["error"] = BitdialError("bits must be in [1, 32],\n  got 0")
        assert main(["try"]) == 2
        assert capsys.readouterr().err == "bitdial: bits must be in [1, 32], got 0\n"

    def test_interruption_exits_130(self, command: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
        command["error"] = RunInterrupted("stopped at step 7; go on with --resume")
        assert main(["try"]) == 130
        assert capsys.readouterr().err == "bitdial: stopped at step 7; go on with --resume\n"
        command["error"] = KeyboardInterrupt()
        assert main(["try"]) == 130

    def test_pydantic_error_names_the_field(
        self, command: dict[str, object], capsys: pytest.CaptureFixture[str]
    ) -> None:
        command["error"] = lambda: Model.model_validate({"bits": "many"})
        assert main(["try"]) == 2
        assert capsys.readouterr().err.startswith("bitdial: bits: Input should be a valid integer")

    def test_value_error_raised_in_this_package_is_a_sentence(
        self, command: dict[str, object], capsys: pytest.CaptureFixture[str]
    ) -> None:
        namespace: dict[str, object] = {"__name__": "bitdial.schedules._pattern"}
        exec("def fail(): raise ValueError('widths must not be empty')", namespace)
        command["error"] = namespace["fail"]
        assert main(["try"]) == 2
        assert capsys.readouterr().err == "bitdial: widths must not be empty\n"

    def test_value_error_from_elsewhere_keeps_its_traceback(self, command: dict[str, object]) -> None:
        command["error"] = lambda: int("seven")
        with pytest.raises(ValueError, match="seven"):
            main(["try"])

    def test_path_refused_by_the_system(
        self, command: dict[str, object], capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        command["error"] = lambda: (tmp_path / "missing" / "x").write_text("")
        assert main(["try"]) == 2
        assert f"the system refused '{tmp_path / 'missing' / 'x'}': No such file" in capsys.readouterr().err

    def test_fault_of_ours_keeps_its_traceback(self, command: dict[str, object]) -> None:
        command["error"] = KeyError("weight_bits")
        with pytest.raises(KeyError):
            main(["try"])

    def test_debug_shows_every_traceback(self, command: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BITDIAL_DEBUG", "1")
        command["error"] = BitdialError("x")
        with pytest.raises(BitdialError):
            main(["try"])

    def test_exit_of_a_commands_help_becomes_its_status(self, command: dict[str, object]) -> None:
        command["error"] = SystemExit(0)
        assert main(["try"]) == 0


class TestProcess:
    def test_help_needs_no_torch_and_no_pydantic(self) -> None:
        code = (
            "import sys; from bitdial.cli import main; main(['--help']); print({'torch', 'pydantic'} & {*sys.modules})"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.endswith("set()\n")

    def test_closed_pipe_is_quiet(self) -> None:
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [sys.executable, "-m", "bitdial", "--help"], stdout=write, stderr=subprocess.PIPE, text=True, check=False
        )
        os.close(write)
        assert (done.returncode, done.stderr) == (141, "")

    def test_sentence_goes_to_stderr_and_status_is_2(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "bitdial", "train", "cyclik"], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "bitdial: unknown recipe 'cyclik'; did you mean 'cyclic'?\n"


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "1000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None), ({"GOMP_SPINCOUNT": "5"}, "5")]
)
def test_threads_that_wait_sleep_soon_unless_the_user_says_otherwise(
    given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert main(["--version"]) == 0
    assert os.environ.get("GOMP_SPINCOUNT") == expected
