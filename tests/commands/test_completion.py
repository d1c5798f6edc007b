"""Completion: what may stand at the cursor, and a real shell that asks for it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys

import pytest

from bitdial.cli import main
from bitdial.commands import COMMANDS, OPTIONS
from bitdial.commands.completion import SCRIPTS, words_at
from bitdial.names import NETWORKS
from bitdial.recipes import RECIPES


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tra", ["train"]),
        ("train ", sorted(RECIPES)),
        ("train cyclic ", ["aggressive", "conservative", "research"]),
        ("train cyclic --preset re", ["research"]),
        ("train cyclic research --preci", ["--precision"]),
        ("train joint --precision b", ["bfloat16"]),
        ("train joint --precision bfloat16 ", []),
        ("train joint --model resnet1", ["resnet110", "resnet18"]),
        ("train joint --dataset fashion-m", ["fashion-mnist"]),
        ("train ternary --limit-t", ["--limit-test", "--limit-train"]),
        ("train cyclic --experiment.abl", ["--experiment.ablations"]),
        ("train cyclic --experiment.ablations no_cycling r", ["random_cycling"]),
        ("train cyclic --compile --compile", []),
        ("train joint --sens", []),
        ("train joint --no_s", ["--no_sensitivity"]),
        ("train compress --model hpcm_t", ["hpcm_tiny"]),
        ("train cyclic --data_path ru", []),  # the shell knows files
        ("search joint --training_method sand", ["sandwich"]),
        ("search joint --sampler g", ["gp", "grid"]),
        ("bench ", ["amp", "codec", "runtime"]),
        ("bench amp --device c", ["cpu", "cuda"]),
        ("doctor --no", ["--no_compile"]),
        ("completion z", ["zsh"]),
        ("nothing --l", []),
        ("train nothing --l", []),
    ],
)
def test_words(line: str, expected: list[str]) -> None:
    assert words_at(line.split(" ")) == expected


def test_every_network_is_offered() -> None:
    assert {*NETWORKS} <= {*words_at(["train", "cyclic", "--model", ""])}


@pytest.mark.parametrize("command", [*COMMANDS, "bench amp", "bench codec", "bench runtime"])
def test_every_command_has_flags(command: str) -> None:
    assert command in OPTIONS or command in ("bench", "completion")
    assert "--help" in words_at([*command.split(), "--h"])


@pytest.mark.parametrize("shell", SCRIPTS)
def test_scripts_name_the_command_that_they_ask(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert " completion words " in capsys.readouterr().out


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_real_shell_takes_its_script(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    subprocess.run([shell, "-n"], input=SCRIPTS[shell], text=True, check=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes() -> None:
    script = (
        f'bitdial() {{ {shlex.quote(sys.executable)} -m bitdial "$@"; }}; eval "$(bitdial completion bash)"; '
        'COMP_WORDS=(bitdial train cyclic --precision fl); COMP_CWORD=4; _bitdial; echo "${COMPREPLY[@]}"; '
        "complete -p bitdial"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["float16 float32 float8", "complete -o default -F _bitdial bitdial"]


def test_what_is_no_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "basch"]) == 2
    assert capsys.readouterr().err == "bitdial: expected the name of one shell, got 'basch'; did you mean 'bash'?\n"
    assert main(["completion"]) == 2
    assert "bitdial completion fish" in capsys.readouterr().out
