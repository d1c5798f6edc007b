"""One study of many workers: as many trials as asked for, none lost and none twice, whoever dies."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState

from bitdial.errors import BitdialError
from bitdial.search import liveness
from bitdial.search.liveness import Heartbeat, Worker
from bitdial.search.space import Choices, Range, Space
from bitdial.search.storage import open_storage
from bitdial.search.study import SharedStudy, open_study
from tests.search.workers import IDENTITY, check, join, journal, work, workers

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def states(shared: SharedStudy) -> list[str]:
    return [trial.state.name for trial in shared.trials]


def test_three_processes_on_a_journal_and_one_is_killed(tmp_path: Path) -> None:
    storage = journal(tmp_path)
    with workers(3, storage, 12, 0.05, killed_in=1) as made:
        pass
    assert sorted(abs(each.exitcode or 0) for each in made) == [0, 0, 9]
    shared = join(storage, 12)
    assert shared.claim() is None
    dead = [trial for trial in shared.trials if trial.user_attrs.get("worker_died")]
    assert [trial.state for trial in dead] == [TrialState.FAIL]
    retried = [trial for trial in shared.trials if trial.user_attrs.get("retry_of") == dead[0].number]
    assert [trial.params for trial in retried] == [dead[0].params]
    check(shared, 12)


def together(storage: str, total: int, count: int) -> SharedStudy:
    """Workers that begin at the same moment, in threads."""
    barrier = threading.Barrier(count)

    def one() -> None:
        barrier.wait()
        work(storage, total, 0.0)

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return join(storage, total)


def test_more_workers_than_trials(tmp_path: Path) -> None:
    check(together(journal(tmp_path), 3, 6), 3)


def test_each_point_of_a_grid_is_taken_once(tmp_path: Path) -> None:
    space = Space({"x": Range(1, 4, whole=True), "y": Choices(([1], [2]))})
    join(journal(tmp_path), 8)
    barrier = threading.Barrier(4)

    def one() -> None:
        shared = SharedStudy(join(journal(tmp_path), 8).study, space, 8, "grid", seed=1)
        barrier.wait()
        while (trial := shared.claim()) is not None:
            chosen = shared.choose(trial)
            assert chosen["y"] in ([1], [2])
            shared.tell(trial, [0.0], "COMPLETE", {})

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    points = [tuple(trial.params.values()) for trial in join(journal(tmp_path), 8).counted]
    assert sorted(points) == [(x, y) for x in range(1, 5) for y in ("[1]", "[2]")]


@pytest.fixture
def grpc_server(tmp_path: Path) -> Iterator[str]:
    from optuna.storages._grpc.server import make_server

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = make_server(open_storage(journal(tmp_path)), "127.0.0.1", port)  # type: ignore[no-untyped-call]
    server.start()
    yield f"grpc://127.0.0.1:{port}"
    server.stop(None)


def test_workers_on_a_grpc_proxy(grpc_server: str) -> None:
    check(together(grpc_server, 7, 3), 7)


@pytest.fixture
def postgresql(tmp_path: Path) -> Iterator[str]:
    """A server of our own, on a socket in a folder, with a password."""
    programs = [Path(shutil.which("initdb") or "/none").resolve().parent, *Path("/usr/lib/postgresql").glob("*/bin")]
    folder = next((each for each in programs if (each / "initdb").exists()), None)
    if folder is None:
        pytest.skip("no PostgreSQL server is installed")
    user: int | None = None
    if os.getuid() == 0:  # which initdb refuses
        name = next(
            (each for each in ("postgres", "nobody") if each in {entry.pw_name for entry in pwd.getpwall()}), ""
        )
        if not name:
            pytest.skip("we are root, and there is no other user to run PostgreSQL as")
        user = pwd.getpwnam(name).pw_uid
    data = Path("/tmp") / f"pg-{os.getpid()}-{time.time_ns()}"  # its socket's path may not be long
    data.mkdir()
    try:
        if user is not None:
            os.chown(data, user, -1)
        (data / "password").write_text("sesame\n")
        os.chmod(data / "password", 0o644)

        def call(*words: object) -> None:
            done = subprocess.run([str(each) for each in words], user=user, cwd=data, capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"PostgreSQL does not start here: {done.stderr[-200:]}")

        how = ["-U", "me", "-A", "scram-sha-256", "--pwfile", data / "password", "--no-sync"]
        call(folder / "initdb", "-D", data / "db", *how)
        listens = f"-c listen_addresses='' -c unix_socket_directories={data} -c fsync=off"
        log = data / "log"
        call(folder / "pg_ctl", "-D", data / "db", "-w", "-l", log, "-o", listens, "start")
        try:
            yield f"postgresql://me:sesame@/postgres?host={data}"
        finally:
            call(folder / "pg_ctl", "-D", data / "db", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(data, ignore_errors=True)


def test_three_processes_begin_on_a_new_postgresql_database(postgresql: str) -> None:
    with workers(3, postgresql, 9, 0.02) as made:
        pass
    assert [each.exitcode for each in made] == [0, 0, 0]
    shared = join(postgresql, 9)
    assert shared.claim() is None
    check(shared, 9)
    shared.close()
    with pytest.raises(BitdialError, match=r"postgresql://me:\*\*\*@/postgres\S+ searches something else") as error:
        open_study(postgresql, "s", ["maximize"], {**IDENTITY, "recipe": "other"}, "1.0")
    assert "sesame" not in str(error.value)


def test_a_trial_that_was_put_back_is_the_next_with_what_it_had(tmp_path: Path) -> None:
    shared = join(journal(tmp_path), 2)
    trial = shared.claim()
    assert trial is not None
    chosen = shared.choose(trial)
    trial.set_user_attr("folder", "there")
    shared.put_back(trial)
    assert shared.counted == []
    again = join(journal(tmp_path), 2).claim()
    assert again is not None
    assert (again.number, again.user_attrs["folder"]) == (trial.number, "there")
    assert join(journal(tmp_path), 2).choose(again) == chosen


def test_one_too_many_goes_back_before_anything_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two see that one is wanted, and both take one; both put it back, and the first to try again gets it."""
    first, second = join(journal(tmp_path), 1), join(journal(tmp_path), 1)
    ask = first.study.ask
    taken: list[int] = []

    def ask_late() -> optuna.Trial:
        if not taken:
            taken.append(second.study.ask().number)  # between the two counts of the first
        return ask()

    monkeypatch.setattr(first.study, "ask", ask_late)
    monkeypatch.setattr(time, "sleep", lambda _: second.study._storage.set_trial_state_values(0, TrialState.WAITING))
    trial = first.claim()
    assert trial is not None
    assert (trial.number, trial.params) == (0, {})
    assert states(first) == ["RUNNING", "WAITING"]
    assert first.trials[1].params == {}
    assert second.claim() is None


def dead_trial(shared: SharedStudy, **other: object) -> optuna.Trial:
    trial = shared.claim()
    assert trial is not None
    shared.choose(trial)
    trial.set_user_attr("folder", "there")
    trial.set_user_attr("worker", {**trial.user_attrs["worker"], **other})
    return trial


def test_a_dead_trial_is_failed_by_one_and_tried_once_more(tmp_path: Path) -> None:
    first, second = join(journal(tmp_path), 3), join(journal(tmp_path), 3)
    dead = dead_trial(first, started=1.0)  # a process of that number that is another one by now
    stale = second.trials  # both saw it running
    assert stale[0].state == TrialState.RUNNING
    for shared in (first, second):
        shared.bury()
    assert states(first) == ["FAIL", "WAITING"]
    assert first.trials[0].user_attrs["reason"] == f"its worker on {first.me.host} died"
    retry = second.claim()
    assert retry is not None
    assert retry.user_attrs["retry_of"] == dead.number
    assert retry.user_attrs["folder"] == "there"
    assert second.choose(retry)["lr"] == first.trials[0].params["lr"]
    retry.set_user_attr("worker", {**retry.user_attrs["worker"], "pid": 2**22 + 1})
    first.bury()
    assert states(first) == ["FAIL", "FAIL"]  # once is enough
    assert first.counted == []


def test_two_that_bury_at_once_make_one_retry(tmp_path: Path) -> None:
    first, second = join(journal(tmp_path), 3), join(journal(tmp_path), 3)
    dead_trial(first, started=1.0)
    fail = first.study._storage.set_trial_user_attr

    def late(*how: object) -> None:
        second.bury()
        first.study._storage.set_trial_user_attr = fail  # type: ignore[method-assign]
        fail(*how)  # type: ignore[arg-type]

    first.study._storage.set_trial_user_attr = late  # type: ignore[method-assign,assignment]
    first.bury()
    assert states(second) == ["FAIL", "WAITING"]


def test_workers_elsewhere_live_while_they_give_signs_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = join(journal(tmp_path), 3)
    trial = dead_trial(shared, machine="another", pid=1, host="far")
    shared.bury()
    assert states(shared) == ["RUNNING"]
    monkeypatch.setattr(liveness, "SILENT_SECONDS", 0.3)
    monkeypatch.setattr(liveness, "HEARTBEAT_SECONDS", 0.02)
    with Heartbeat(trial):
        time.sleep(0.5)
        shared.bury()
        assert states(shared) == ["RUNNING"]
    time.sleep(0.4)
    shared.bury()
    assert states(shared) == ["FAIL", "WAITING"]
    assert "far" in shared.trials[0].user_attrs["reason"]


def test_a_trial_that_was_never_signed_is_given_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = join(journal(tmp_path), 3)
    shared.study.ask()
    shared.bury()
    assert states(shared) == ["RUNNING"]
    monkeypatch.setattr(liveness, "SILENT_SECONDS", -1.0)
    shared.bury()
    assert states(shared) == ["FAIL"]  # nothing was chosen: there is nothing to try again


def test_one_that_is_being_put_back_is_not_dead() -> None:
    trial = SimpleNamespace(user_attrs={"worker": None, "heartbeat": time.time()}, datetime_start=datetime(2026, 1, 1))
    assert not Worker.here().has_lost(trial)  # type: ignore[arg-type]
    trial.user_attrs["heartbeat"] -= 700
    assert Worker.here().has_lost(trial)  # type: ignore[arg-type]


def test_who_searches_something_else_is_refused(tmp_path: Path) -> None:
    join(journal(tmp_path), 1)
    other = {**IDENTITY, "space": {"lr": {"low": 0.1, "high": 1.0}}}
    with pytest.raises(BitdialError, match=r"space lr high|space lr l\w+ is .*; give --study another name"):
        open_study(journal(tmp_path), "s", ["maximize"], other, "1.0")
    assert open_study(journal(tmp_path), "s", ["maximize"], IDENTITY, "2.0")[1] == [
        "the study was begun with bitdial 1.0, this is 2.0"
    ]
    optuna.create_study(storage=open_storage(journal(tmp_path)), study_name="foreign")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", lambda _: None)
        with pytest.raises(BitdialError, match="was not begun by `bitdial search`"):
            open_study(journal(tmp_path), "foreign", ["maximize"], IDENTITY, "1.0")


def test_of_two_that_begin_at_once_with_other_spaces_one_is_refused(tmp_path: Path) -> None:
    barrier, told = threading.Barrier(2), list[str]()

    def begin(recipe: str) -> None:
        barrier.wait()
        try:
            open_study(journal(tmp_path), "s", ["maximize"], {**IDENTITY, "recipe": recipe}, "1.0")
            told.append("begun")
        except BitdialError as error:
            told.append(str(error))

    threads = [threading.Thread(target=begin, args=(recipe,)) for recipe in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each == "begun" for each in told) == [False, True]
    assert "searches something else: recipe is " in min(told, key=lambda each: each == "begun")


def test_the_machine_tells_processes_apart() -> None:
    me = Worker.here()
    assert me == Worker.here()
    assert replace(me, pid=1) != me
