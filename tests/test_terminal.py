"""Names and paths are printed as they are, whatever they would mean as markup, emoji, mathematics or HTML."""

from __future__ import annotations

import ast
import io
import shlex
from pathlib import Path

import numpy as np
import pytest
from markupsafe import escape
from PIL import Image
from rich.console import Console

from bitdial.cli import main
from bitdial.doctor.findings import Finding, print_table
from bitdial.terminal import terminal
from bitdial.training import Progress
from tests.quick_figures import _quick_figures as _quick_figures
from tests.quick_figures import drawn as drawn
from tests.recipes.test_frozen import RUNS

ODD = "a[/]b [red]x :cat: [/] [link=x]y <i>$x_1$&amp; {0} %s [bold"
SOURCES = sorted((Path(__file__).parents[1] / "src" / "bitdial").rglob("*.py"))


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    (tmp_path / ODD).mkdir(parents=True)
    return tmp_path / ODD


def printed(capsys: pytest.CaptureFixture[str], *words: object, status: int = 0) -> str:
    assert main([str(word) for word in words]) == status
    out, err = capsys.readouterr()
    return out + err


@pytest.mark.parametrize("recipe", sorted(RUNS))
def test_every_command_of_a_run_in_an_odd_place(recipe: str, odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, command = odd / "run", ["train", recipe]
    said = printed(capsys, *command, *shlex.split(RUNS[recipe]), "--run_dir", run)
    assert f"run folder: {run}\n" in said
    assert f"Report: {run}/report.html\n" in said
    page = (run / "report.html").read_text(encoding="utf-8")
    assert str(escape(ODD)) in page
    assert "<i>$" not in page
    assert f"Report: {run}/report.html\n" in printed(capsys, *command, "--resume", run)  # finished already
    assert str(run) in printed(capsys, *command, *shlex.split(RUNS[recipe]), "--run_dir", run, status=2)
    if recipe == "ternary":
        assert str(run) in printed(capsys, "evaluate", run, "--bits", 4, status=2)
        packed = odd / "packed.safetensors"
        assert f": {packed}\n" in printed(capsys, "export", run, "--output", packed)
        assert str(odd) in printed(capsys, "export", run, "--output", odd, status=2)
    elif recipe == "compress":
        assert str(run) in printed(capsys, "evaluate", run, "--bits", 4, status=2)
        assert str(run) in printed(capsys, "export", run, status=2)
        file = next((run / "pictures").rglob("*.bd"))
        assert "1 picture: " in printed(capsys, "decompress", file, odd / "back.png", "--model", run)
        assert str(odd) in printed(capsys, "compress", odd / "back.png", odd / "nowhere", "--model", run, status=2)
    else:
        assert "accuracy" in printed(capsys, "evaluate", run, "--bits", 4)


@pytest.mark.parametrize("command", [["train", "ternary"], ["train", "joint"], ["evaluate"], ["export"]])
def test_an_odd_place_with_nothing_in_it(command: list[str], odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flag = ["--resume"] if command[0] == "train" else []
    assert f"{odd}/nothing" in printed(capsys, *command, *flag, odd / "nothing", status=2)


def test_odd_data(odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (64, 8, 8, 1), dtype=np.uint8), np.arange(64) % 4
    file = odd / "images[red].npz"
    np.savez(file, x_train=images, y_train=labels, x_test=images, y_test=labels)
    small = ["--model", "mlp", "--dataset", "npz", "--data_path", file]
    said = printed(capsys, "train", "ternary", *small, "--steps", 2, "--batch_size", 32, "--run_dir", odd / "run")
    assert f"run folder: {odd}/run\n" in said
    command = printed(capsys, "recommend", *small, "--batch_size", 4, "--device", "cpu")
    assert shlex.quote(str(file)) in " ".join(command.split())
    assert "images" in printed(capsys, "bench", "amp", *small, "--batch_size", 4, "--iterations", 1)
    assert f"{file}x" in printed(capsys, "train", "ternary", *small[:-1], f"{file}x", status=2)


@pytest.mark.usefixtures("drawn")  # which the figures hold
def test_odd_names_of_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng, data = np.random.default_rng(0), tmp_path / "[bold]data"
    names = [":cat:", "[red]zero", "$1_<b>"]
    for place in [data / part / name for part in ("train", "val") for name in names]:
        place.mkdir(parents=True)
        for number in range(8):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(place / f"{number}.png")
    words = ["--model", "tiny_cnn", "--dataset", "folder", "--data_path", data, "--batch_size", 8, "--steps", 4]
    words += ["--warmup_steps", 0, "--cyclic.cycle_length", 5]
    run = tmp_path / "[red]run"
    assert f"run folder: {run}\n" in printed(capsys, "train", "cyclic", *words, "--run_dir", run)
    assert "24 test images of folder" in printed(capsys, "evaluate", run, "--bits", 4)
    arms = ["--static.test_configurations", "{'[red]x': 4}"]  # names of files, too
    assert "got '[red]x'" in printed(capsys, "train", "cyclic", *words, *arms, status=2)
    (data / "val" / ":cat:").rename(data / "val" / "[dog]")
    assert "'[dog]'" in printed(capsys, "train", "cyclic", *words, "--run_dir", tmp_path / "other", status=2)


@pytest.mark.parametrize(
    "words",
    [["{}"], ["train", "{}"], ["train", "ternary", "--{}"], ["train", "ternary", "{}"], ["bench", "{}"],
     ["train", "ternary", "--model", "{}"], ["train", "cyclic", "--cyclic.profile", "{}"],
     ["recommend", "--model", "{}"]],
)  # fmt: skip
@pytest.mark.parametrize("text", ["[red]x", "[/]", ":cat:"])
def test_input_that_a_message_quotes(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert text in printed(capsys, *(word.replace("{}", text) for word in words), status=2)


@pytest.mark.parametrize("live", [False, True])
def test_labels_and_scores_of_the_live_line(live: bool) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=200, force_terminal=live, color_system=None)  # a user's, with markup
    with Progress("[/]x [red] :cat:", 2, console=console, plain_seconds=0.0) as progress:
        progress.note("resume: [/] [red] :cat:")
        progress.update(1, **{"[/]": 0.5, ":cat:": 0.5})
        progress.update(2, **{"[/]": 0.5, ":cat:": 0.5})
    text = shown.getvalue()
    assert "[/]x [red] :cat:" in text
    assert "resume: [/] [red] :cat:" in text
    assert "[/] 0.5" in text


def test_the_doctor_says_what_it_found() -> None:
    shown = io.StringIO()
    print_table(
        [Finding("[red]topic", ":cat:", "[/] value", True)],
        Console(file=shown, width=100, color_system=None),  # a user's, with markup
    )
    assert shown.getvalue().split() == ["[red]topic", ":cat:", "yes", "[/]", "value"]


def test_the_console_takes_a_text_as_it_is() -> None:
    shown = io.StringIO()
    terminal(file=shown, width=200).print(ODD)
    assert shown.getvalue() == f"{ODD}\n"


def test_nobody_makes_a_console_of_their_own() -> None:
    """Markup is read by a plain `Console`, and by a `TextColumn` that is not told otherwise."""
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            assert name != "Console" or source.name == "terminal.py", source
            assert name not in ("from_markup", "RichHandler"), source
            if name == "TextColumn" and not (isinstance(node.args[0], ast.Constant) and "{" not in node.args[0].value):
                assert "markup" in {keyword.arg for keyword in node.keywords}, source
