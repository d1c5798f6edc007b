"""The bundle for a bare machine: every requirement is followed, checked against what is there, and a gap is said."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from benchmarks.gpu import bundle
from bitdial.errors import BitdialError

WHEELS = {
    "peer": ("1.0", ["numpy>=1.20", "helper>=2,<3", 'extra-thing; extra == "all"', 'old; python_version < "3.12"']),
    "helper": ("2.5", ["deep", 'colorama; sys_platform == "win32"']),
    "deep": ("0.1", []),
    "bitdial": ("0.1.0", ["torch>=2.9", "deep>=0.1"]),
}


def wheel(folder: Path, name: str) -> Path:
    version, needs = WHEELS[name]
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        lines = [
            "Metadata-Version: 2.1",
            f"Name: {name}",
            f"Version: {version}",
            *(f"Requires-Dist: {n}" for n in needs),
        ]
        archive.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(lines) + "\n")
    return path


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of the package index, which is not asked here; the project's wheel is there already."""
    asked: list[str] = []

    def download(requirement: str, folder: Path) -> None:
        asked.append(requirement)
        wheel(folder, Requirement(requirement).name)

    monkeypatch.setattr(bundle, "download", download)
    monkeypatch.setattr(bundle, "build_project", lambda folder: wheel(folder, "bitdial"))
    return asked


def test_needs_are_followed_and_what_is_there_is_left_out(tmp_path: Path, fetched: list[str]) -> None:
    met = bundle.collect(tmp_path, ["peer"])
    assert {Requirement(each).name for each in fetched} == {"peer", "helper", "deep"}
    assert [line.split(" of ")[0] for line in met] == ["torch>=2.9", "numpy>=1.20"]
    assert "2.11.0 is there" in met[0]


@pytest.mark.parametrize(
    ("name", "needs", "says"),
    [
        ("peer", ["numpy<2"], r"peer needs numpy<2, got 2\.5\.2 on the machine; carry another"),
        ("bitdial", ["torch>=2.12"], r"bitdial needs torch>=2\.12, got 2\.11\.0 on the machine"),
        ("peer", ["helper<2"], r"peer needs helper<2, got 2\.5; change the pin"),
    ],
)
def test_versions_that_do_not_go_together_are_refused(
    name: str, needs: list[str], says: str, tmp_path: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WHEELS, name, (WHEELS[name][0], needs))
    with pytest.raises(BitdialError, match=says):
        bundle.collect(tmp_path, ["peer"])


def test_a_wheel_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(BitdialError, match=r"a wheel of no-such-file\.whl.* for Python 3\.12 must be had, got: "):
        bundle.download("no-such-file.whl", tmp_path)


def test_what_the_machine_holds_is_read(tmp_path: Path) -> None:
    machine = bundle.pinned(Path(bundle.__file__).with_name("machine.txt"))
    assert machine["torch"] == Version("2.11.0")
    assert machine["pytest"] is None
    assert {"pydantic", "tyro", "torchao", "brevitas"}.isdisjoint(machine)


def files_of_fashion_mnist(folder: Path, *, without: str = "") -> Path:
    folder.mkdir()
    for name in bundle.FILES:
        if name != without:
            (folder / f"{name}.gz").write_bytes(name.encode())
    return folder


def test_the_four_files_are_copied(tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    bundle.copy_data(files_of_fashion_mnist(tmp_path / "from"), tmp_path / "to")
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == sorted(f"{name}.gz" for name in bundle.FILES)


@pytest.mark.parametrize("missing", bundle.FILES)
def test_a_file_that_is_missing(missing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = files_of_fashion_mnist(tmp_path / "from", without=missing)
    assert bundle.main(["--data", str(source), "--out", str(tmp_path / "out")]) == 2
    assert f"error: Fashion-MNIST's {missing} must lie in {source}, got no such file" in capsys.readouterr().err


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for out in (tmp_path, tmp_path / "thesis.tex"):
        assert bundle.main(["--out", str(out)]) == 2
        assert "must be a new folder or an earlier bundle" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_bundle_that_is_too_large_is_not_offered(
    tmp_path: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bundle, "LARGEST", 100)
    monkeypatch.setattr(bundle, "PEERS", ("peer",))
    monkeypatch.setattr(bundle, "try_out", lambda wheels, python: "tried")
    source = files_of_fashion_mnist(tmp_path / "from")
    assert bundle.main(["--data", str(source), "--out", str(tmp_path / "out")]) == 2
    assert "the bundle must be below 0 MB" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--outs"], ["--data"], ["--python"], ["somewhere"], ["--out", "a", "b"]])
def test_bad_flags(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        bundle.main(words)
    assert stopped.value.code == 2


def test_wheels_that_do_not_install_are_said(tmp_path: Path) -> None:
    (tmp_path / "bad-1.0-py3-none-any.whl").write_bytes(b"no zip")
    with pytest.raises(BitdialError, match="the wheels must install and import by themselves, got: "):
        bundle.try_out(tmp_path, "a python that is not here")
