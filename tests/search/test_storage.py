"""Where a study is kept: names, passwords, journals that a kill cut off or that are damaged."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import optuna
import pytest

from bitdial.errors import BitdialError
from bitdial.search.storage import check_storage, open_storage, shown, storage_faults

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("study.log", "storage must be journal:FILE"),
        ("journal", "storage must be journal:FILE"),
        ("jurnal:a", "did you mean 'journal'?"),
        ("sqlite:///a.db", "got 'sqlite:///a.db'"),
        ("mysql://u:secret@h/d", r"got 'mysql://u:\*\*\*@h/d'"),
        ("journal:", "must name a file, got ''"),
        ("journal:folder/", "must name a file"),
        ("journal:/dev/null", "must name a file"),
        ("journal:/tmp", "must name a file"),
        ("postgresql://host", "name the database"),
        ("postgresql://u:secret@host/", r"got 'postgresql://u:\*\*\*@host/'; name the database"),
        ("grpc://host", "e.g. grpc://server:13000"),
        ("grpc://host:port", "e.g. grpc://server:13000"),
        ("grpc://host:99999", "must be in"),
    ],
)
def test_names_that_are_none(name: str, told: str) -> None:
    with pytest.raises(BitdialError, match=told) as error:
        check_storage(name)
    assert "secret" not in str(error.value)


def test_passwords_are_not_shown() -> None:
    assert shown("postgresql://me:p@ss:w/rd@host/db") == "postgresql://me:***@host/db"
    assert shown("postgresql://host/db?user=me&password=secret&x=1") == "postgresql://host/db?user=me&password=***&x=1"
    assert shown("journal:runs/a.log") == "journal:runs/a.log"


def test_a_server_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitdial.search.storage.SECONDS_TO_CONNECT", 1)
    for name in ("postgresql://me:secret@127.0.0.1:1/db", "grpc://127.0.0.1:1"):
        with pytest.raises(BitdialError, match="cannot be used") as error:
            open_storage(name)
        assert "secret" not in str(error.value)


def test_a_database_needs_psycopg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BitdialError, match=r'pip install "psycopg\[binary\]"'):
        open_storage("postgresql://me@127.0.0.1:1/db")


def filled(path: Path) -> optuna.Study:
    study = optuna.create_study(storage=open_storage(f"journal:{path}"), study_name="s")
    for value in range(3):
        study.tell(study.ask(), value)
    return study


def test_a_line_that_its_writer_was_killed_in_is_gone_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "s.log"
    before = filled(path)
    with path.open("ab") as file:
        file.write(b'{"op_code":4,"worker_id":"x","stu')
    study = optuna.load_study(storage=open_storage(f"journal:{path}"), study_name="s")
    study.tell(study.ask(), 7)
    again = optuna.load_study(storage=open_storage(f"journal:{path}"), study_name="s")
    assert [trial.value for trial in again.trials] == [0, 1, 2, 7]
    before.tell(before.ask(), 8)  # who had the journal open all the time goes on too
    assert [trial.value for trial in before.trials] == [0, 1, 2, 7, 8]
    assert path.read_bytes().endswith(b"\n")
    path.write_bytes(b'{"op')  # its very first line
    assert optuna.create_study(storage=open_storage(f"journal:{path}"), study_name="new").trials == []


@pytest.mark.parametrize("damage", [b"\xff\xfe\n", b"not json\n", b"[1]\n", b"{}\n"])
def test_a_damaged_journal_is_one_sentence(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s.log"
    filled(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], damage, *lines[2:]]))
    with pytest.raises(BitdialError, match=r"s\.log, line 3: expected an entry of a study's journal"):
        open_storage(f"journal:{path}")


def test_entries_that_make_no_sense_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "s.log"
    path.write_text('{"op_code":0,"worker_id":"x"}\n{"op_code":99,"worker_id":"x"}\n')
    with pytest.raises(BitdialError, match="cannot be used"):
        open_storage(f"journal:{path}")


def test_faults_of_the_program_itself_are_let_through() -> None:
    with pytest.raises(KeyError), storage_faults("journal:x"):
        raise KeyError("ours")


def write(path: str, count: int) -> None:
    study = optuna.load_study(storage=open_storage(f"journal:{path}"), study_name="s")
    for value in range(count):
        study.tell(study.ask(), value)


def test_two_processes_write_one_journal(tmp_path: Path) -> None:
    path = tmp_path / "s.log"
    filled(path)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write, args=(str(path), 20)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    study = optuna.load_study(storage=open_storage(f"journal:{path}"), study_name="s")
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(study.trials) == 43
    assert sorted(trial.value for trial in study.trials) == sorted([0.0, 1.0, 2.0, *map(float, 2 * list(range(20)))])
