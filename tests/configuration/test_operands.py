"""A command line whose operands stand anywhere between its flags."""

from __future__ import annotations

import pytest

from bitdial.configuration import Config, take_operands


class Options(Config):
    force: bool = False
    jobs: int = 1
    models: list[str] = []


@pytest.mark.parametrize(
    ("line", "operands", "flags"),
    [
        ("a b", "a b", ""),
        ("--force a --jobs 2 b", "a b", "--force --jobs 2"),
        ("a --no-force b --jobs=2 c", "a b c", "--no-force --jobs=2"),
        ("a --models x y z", "a", "--models x y z"),
        ("a --models x -- -b --jobs 2 -h", "a -b --jobs 2 -h", "--models x"),
        ("--config file.yaml a", "a", "--config file.yaml"),
        ("-1.png -h a", "-1.png a", "-h"),
        ("a --jobbs 3 b", "a b", "--jobbs 3"),
    ],
)
def test_operands_and_flags_are_parted(line: str, operands: str, flags: str) -> None:
    assert take_operands(Options, line.split()) == (operands.split(), flags.split())
