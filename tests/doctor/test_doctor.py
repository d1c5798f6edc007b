"""The doctor reports what it tried, and a trial that goes wrong is a finding, not a crash."""

from __future__ import annotations

import json

import pytest
import torch

from bitdial.cli import main
from bitdial.doctor import Finding, examine
from bitdial.doctor.findings import as_json
from bitdial.doctor.machine import OPTIONAL
from bitdial.doctor.trials import compilation, int8_matmul, native_kernels, packed_runtime


@pytest.fixture(scope="module")
def findings() -> list[Finding]:
    return list(examine(compile=False))


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_versions_are_the_imported_ones(findings: list[Finding]) -> None:
    assert by_name(findings)["torch"].value == torch.__version__.partition("+")[0]


def test_tries_every_format_on_the_cpu(findings: list[Finding]) -> None:
    tried = {finding.name: finding.works for finding in findings if finding.topic == "arithmetic"}
    assert {"cpu autocast bfloat16", "cpu convert float8_e4m3fn", "cpu int8 matmul"} <= tried.keys()
    assert tried["cpu autocast bfloat16"] is True
    assert None not in tried.values()


def test_lists_every_optional_package(findings: list[Finding]) -> None:
    assert {finding.name for finding in findings if finding.topic == "optional"} == OPTIONAL.keys()


def test_missing_package_comes_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bitdial.doctor.machine.OPTIONAL", {"no-such-package": "compression"})
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["doctor", "--no-compile"]) == 0
    assert "pip install 'bitdial[compression]'" in capsys.readouterr().out


def test_json_holds_the_same_findings(findings: list[Finding], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--no-compile"]) == 0
    read = json.loads(capsys.readouterr().out)
    expected = as_json(findings)
    assert {topic: list(names) for topic, names in read.items()} == {topic: list(n) for topic, n in expected.items()}
    assert read["arithmetic"] == expected["arithmetic"]


def test_int8_self_test_catches_saturating_sums() -> None:
    def saturating(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a.int() @ b.int()).clamp(-(1 << 15), (1 << 15) - 1)

    with pytest.raises(RuntimeError, match="entries wrong at 32x64x32"):
        int8_matmul("cpu", saturating)


def test_int8_self_test_accepts_a_right_product() -> None:
    assert int8_matmul("cpu", lambda a, b: a.int() @ b.int()) == "equal to the int32 reference"


@pytest.mark.parametrize(
    ("trial", "works", "value"),
    [
        ("print('3')", True, "first call took 3 s"),
        ("raise RuntimeError('no compiler')", False, "RuntimeError: no compiler"),
        ("import os; os.abort()", False, "no output"),
    ],
)
def test_compilation_reports_what_its_process_did(trial: str, works: bool, value: str) -> None:
    finding = compilation("cpu", trial=trial)
    assert (finding.works, finding.value) == (works, value)


def test_compilation_that_hangs_is_given_up() -> None:
    finding = compilation("cpu", limit=0.2, trial="import time; time.sleep(60)")
    assert (finding.works, finding.value) == (False, "no result within 0.2 s")


def test_native_kernels_come_with_the_reason_why_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITDIAL_NATIVE", "0")
    finding = native_kernels()
    assert finding.works is False
    assert finding.value.startswith("they are switched off: BITDIAL_NATIVE is 0; without them")


@pytest.mark.parametrize(
    ("trial", "works", "value"),
    [
        ("print()", True, "compiled"),
        ("print('there is no C compiler')", False, "there is no C compiler; without them"),
        ("import os; os.abort()", False, "no output; without them"),
        ("import time; time.sleep(60)", False, "no result within 2 s; without them"),
    ],
)
def test_native_kernels_report_what_their_process_did(trial: str, works: bool, value: str) -> None:
    finding = native_kernels(trial=trial, limit=2)
    assert finding.works is works
    assert finding.value.startswith(value)


@pytest.mark.parametrize(
    ("trial", "works", "value"),
    [
        ("print('\\nsaturates\\navx2 fma')", True, "compiled; its sums are exact (avx2 fma)"),
        ("print('no compiler\\nexact\\n')", False, "no compiler; instead int8 of oneDNN: exact"),
        ("print('no compiler\\nnone\\n')", False, "no compiler; instead no int8 of oneDNN: fake"),
        ("import os; os.abort()", False, "no output; instead no int8"),
    ],
)
def test_the_packed_runtime_comes_with_what_runs_instead(trial: str, works: bool, value: str) -> None:
    finding = packed_runtime(trial=trial, limit=5)
    assert finding.works is works
    assert finding.value.startswith(value)


@pytest.mark.slow
def test_the_doctor_tries_everything_that_is_compiled() -> None:
    tried = [finding.name for finding in examine() if finding.topic == "compile"]
    assert {"cpu torch.compile", "native kernels", "packed runtime"} <= set(tried)


@pytest.mark.slow
def test_compilation_really_compiles() -> None:
    assert compilation("cpu").works
