"""Which files of the server options that come from a browser may name."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitdial.app.web.form import NOT_HERE, check, form_of
from bitdial.app.web.rooted import Roots, names_paths, refusals
from bitdial.configuration.settings import Settings
from bitdial.errors import BitdialError
from bitdial.recipes import RECIPES, find_choices

CODE = "def make(num_classes): ...\n"
PATHS = [(recipe, name) for recipe in RECIPES for name, field in form_of(recipe).fields.items()
         if names_paths(field.setting.annotation)]  # fmt: skip
"""Every option of every form that takes a path."""
NAMES = [(recipe, name) for recipe in RECIPES for name in ("model", "dataset") if name in form_of(recipe).fields]


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Roots:
    """Folders ``open``, ``runs`` and ``closed`` with the same in each, and links from the first two into the last."""
    for name in ("open", "runs", "closed", "open twin"):
        (tmp_path / name / "in").mkdir(parents=True)
        (tmp_path / name / "code.py").write_text(CODE)
        (tmp_path / name / "net.pt").write_bytes(b"")
    for name in ("open", "runs"):
        (tmp_path / name / "folder-link").symlink_to(tmp_path / "closed")
        (tmp_path / name / "link.py").symlink_to(tmp_path / "closed" / "code.py")
        (tmp_path / name / "link.pt").symlink_to(tmp_path / "closed" / "net.pt")
    (tmp_path / "open" / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "closed"))
    return Roots(tmp_path / "runs", (tmp_path / "open",))


def refused(roots: Roots, recipe: str, **values: object) -> dict[str, str]:
    return dict(refusals(values, Settings(find_choices(recipe).options), roots))


def test_every_kind_of_option_that_is_a_path_is_known_by_its_type() -> None:
    assert {name for _, name in PATHS} >= {"data_path", "test_path", "checkpoint", "start_from", "teacher"}
    for recipe in RECIPES:
        left = {each.name for each in Settings(find_choices(recipe).options) if names_paths(each.annotation)}
        assert left - {name for of, name in PATHS if of == recipe} <= {*NOT_HERE}
    assert {"resume", "run_dir", "csv_log"} <= {*NOT_HERE}


OUTSIDE = [
    "closed/net.pt",
    "{here}/closed/net.pt",
    "{here}/open/../closed/net.pt",
    "open/../closed/net.pt",
    "../../../../../../../../etc/passwd",
    "/etc/passwd",
    "//etc/passwd",
    "~/net.pt",
    "~root/x",
    "~nobody-of-that-name/x",
    "open/link.pt",
    "open/folder-link/net.pt",
    "runs/link.pt",
    "runs/folder-link/net.pt",
    "{here}/open twin/net.pt",
    "open/loop",
    "open/%2e%2e/../../closed/net.pt",
    "file:///etc/passwd",
    "open/\0",
    "'/etc/passwd'",
    "--config=/etc/passwd",
    ".",
    "..",
]


@pytest.mark.parametrize("text", OUTSIDE)
def test_no_path_leads_out_of_the_roots(roots: Roots, tmp_path: Path, text: str) -> None:
    text = text.replace("{here}", str(tmp_path))
    for recipe, name in PATHS:
        found = refused(roots, recipe, **{name: text})
        assert "expected a path" in found[name], (recipe, name)


@pytest.mark.parametrize(
    "text",
    ["open/net.pt", "{here}/open/net.pt", "open", "open/in/../net.pt", "runs/net.pt", "open/missing/x", "open/%2e%2e"],
)
def test_what_lies_below_a_root_or_the_runs_may_be_named(roots: Roots, tmp_path: Path, text: str) -> None:
    for recipe, name in PATHS:
        assert not refused(roots, recipe, **{name: text.replace("{here}", str(tmp_path))})


@pytest.mark.parametrize(("recipe", "name"), [*PATHS, *NAMES])
def test_a_file_with_a_function_is_run_from_a_root_alone(roots: Roots, tmp_path: Path, recipe: str, name: str) -> None:
    for text in ("open/code.py:make", f"{tmp_path}/open/code.py:make"):
        assert not refused(roots, recipe, **{name: text})
    for text in (
        "closed/code.py:make",
        "runs/code.py:make",
        "open/../runs/code.py:make",
        "open/../closed/code.py:make",
        "open/link.py:make",
        "runs/link.py:make",
        "open/folder-link/code.py:make",
        "~/code.py:make",
        "/tmp/code.py:make",
        "open twin/code.py:make",
        "'/tmp/code.py:make'",
        "closed/code.py:",
    ):
        assert "expected a Python file" in refused(roots, recipe, **{name: text})[name], text


def test_code_among_the_runs_is_not_run_where_a_root_holds_them_either(roots: Roots, tmp_path: Path) -> None:
    wide = Roots(roots.runs, (tmp_path,))
    assert not refused(wide, "joint", model="closed/code.py:make")
    assert "what lies among them is not run" in refused(wide, "joint", model="runs/code.py:make")["model"]


def test_without_a_root_the_runs_alone_are_open_and_no_code(roots: Roots) -> None:
    none = Roots(roots.runs)
    assert not refused(none, "ternary", teacher="runs/net.pt", model="mlp", dataset="digits")
    assert "below" in refused(none, "ternary", teacher="open/net.pt")["teacher"]
    assert "expected no Python file" in refused(none, "ternary", model="open/code.py:make")["model"]


@pytest.mark.parametrize(
    "inner",
    [
        {"teacher": "/etc/passwd"},
        {"start_from": "closed/net.pt"},
        {"start-from": "closed/net.pt"},
        {"model": "closed/code.py:make"},
        {"anything": [{"deep": "closed/code.py:make"}]},
        {"closed/code.py:make": 1},
    ],
)
def test_options_inside_of_options_are_judged_likewise(roots: Roots, inner: dict[str, object]) -> None:
    assert "experiments" in refused(roots, "ternary", experiments={"a": {"lr": 0.1}, "b": inner})
    assert not refused(roots, "ternary", experiments={"a": {"teacher": "open/net.pt", "model": "open/code.py:make"}})


@pytest.mark.parametrize("name", ["hf:/etc", "hf:../closed", "hf:open/in", "hf:.", "hf:~/x", "hf:", "hf:a/b/c"])
def test_a_name_on_the_hub_is_no_folder_here(roots: Roots, name: str) -> None:
    assert "expected hf:OWNER/NAME" in refused(roots, "joint", dataset=name)["dataset"]
    assert not refused(roots, "joint", dataset="hf:ylecun/mnist")


def test_a_form_says_it_beside_the_field_and_starts_with_what_is_allowed(roots: Roots) -> None:
    given = {"model": "'closed/code.py:make'", "data_path": "/etc", "teacher": "closed/net.pt", "lr": "fast"}
    found = check("ternary", "", given, roots)
    assert {*found.faults} == {*given}
    assert all("--root FOLDER" in found.faults[name] for name in ("model", "data_path", "teacher"))
    assert not found.options
    flow = check("ternary", "", {"experiments": "{a: {teacher: '/etc/passwd'}}"}, roots)
    assert "expected a path below" in flow.faults["experiments"]
    sound = check("ternary", "", {"model": "open/code.py:make", "teacher": "open/net.pt"}, roots)
    assert (dict(sound.faults), sound.options["model"]) == ({}, "open/code.py:make")


@pytest.mark.parametrize("name", ["resume", "run_dir", "csv_log", "config", "preset", "strict"])
def test_what_the_page_decides_is_no_field(roots: Roots, name: str) -> None:
    found = check("ternary", "", {name: "/etc/passwd"}, roots)
    assert (found.command, dict(found.options)) == ("bitdial train ternary", {})


def test_a_run_is_resumed_by_its_id_alone(roots: Roots) -> None:
    from bitdial.app.jobs import JobManager

    for name in ("../closed", "/etc", "folder-link", "net.pt", "..%2fclosed"):
        with pytest.raises(BitdialError, match="expected the id of a run"):
            JobManager(roots.runs).resume(name)
