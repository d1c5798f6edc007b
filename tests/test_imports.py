"""What an import loads: a user with a loop of their own must not pay for the rest of the house."""

from __future__ import annotations

import subprocess
import sys

import pytest

import bitdial

HEAVY = "{'torch', 'numpy', 'pydantic', 'lightning', 'rich', 'matplotlib', 'tyro', 'yaml', 'torchvision', 'sklearn'}"


def loaded(statement: str) -> set[str]:
    """Return which heavy packages a fresh Python has loaded after a statement."""
    code = f"import sys; {statement}; print(*({HEAVY} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    ["import bitdial", "import bitdial.schedules", "from bitdial import schedules", "import bitdial.machine"],
)
def test_schedules_and_machine_facts_load_nothing_but_the_standard_library(statement: str) -> None:
    assert loaded(statement) == set()


@pytest.mark.parametrize("room", ["numerics", "layers"])
def test_numerics_and_layers_load_torch_numpy_and_pydantic_at_most(room: str) -> None:
    assert loaded(f"import bitdial.{room}") <= {"torch", "numpy", "pydantic"}


@pytest.mark.parametrize("name", bitdial.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(bitdial, name) is not None
    assert name in dir(bitdial)


def test_mistyped_name_suggests_the_right_one() -> None:
    with pytest.raises(AttributeError, match="module 'bitdial' has no attribute 'quantise'; did you mean 'quantize'"):
        bitdial.quantise  # noqa: B018
