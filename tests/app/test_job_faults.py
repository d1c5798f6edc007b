"""What can happen to a job while it runs, tried with real processes that stand in for a training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest

from bitdial.app import output
from bitdial.app.jobs import JobManager
from bitdial.app.store import read_job
from bitdial.errors import BitdialError
from bitdial.processes import ProcessMark
from bitdial.training.run_folder import JOB, OUTPUT
from tests.app.stand_in import ENDLESS, launch, lives, until, until_begun, until_ended
from tests.disks import mounted

SAVES = """
import signal, sys, time
def stop(*_):
    print('saved', flush=True); sys.exit(130)
signal.signal(signal.SIGINT, stop)
print('begun', flush=True)
time.sleep(600)
"""
STUBBORN = """
import signal, subprocess, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
print('begun', child.pid, flush=True)
time.sleep(600)
"""
SERVER = """
import sys, time
from pathlib import Path
from bitdial.app.jobs import JobManager
code = sys.argv[2]
run = JobManager(sys.argv[1]).launch('cyclic', ['cpu'], lambda folder: [sys.executable, '-u', '-c', code])
print(run, flush=True)
time.sleep(600)
"""


def test_a_job_that_ends_by_itself_is_finished(jobs: JobManager) -> None:
    run = launch(jobs, "print('done')")
    until_ended(jobs, run)
    status = jobs.status(run)
    assert (run, status.state, status.percent, status.managed, status.pid) == ("cyclic-1", "finished", 100, True, None)
    assert jobs.log(run).text == "done\n"


def test_a_job_that_fails_says_its_last_lines(jobs: JobManager) -> None:
    run = launch(jobs, "raise SystemExit('the \\x1b[31mdata\\x1b[0m <b>is</b> missing')")
    until_ended(jobs, run)
    assert jobs.status(run).state == "failed"
    assert jobs.status(run).message == "the data <b>is</b> missing"


def test_a_program_that_is_not_there(jobs: JobManager) -> None:
    run = jobs.launch("cyclic", ["cpu"], lambda _: ["/no/such/program"])
    until_ended(jobs, run)
    assert "cannot start /no/such/program" in jobs.status(run).message


def test_a_job_outlives_a_killed_server_and_another_finds_it(jobs: JobManager) -> None:
    command = [sys.executable, "-c", SERVER, str(jobs.root), SAVES]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as server:
        assert server.stdout is not None
        run = server.stdout.readline().strip()
        pid = until_begun(jobs, run)
        os.killpg(server.pid, signal.SIGKILL)
    assert lives(pid)
    assert [each.id for each in JobManager(jobs.root).list() if each.state == "running"] == [run]
    JobManager(jobs.root).stop(run)
    until_ended(jobs, run)
    assert jobs.status(run).state == "stopped"
    assert jobs.status(run).message == "begun\nsaved"


@pytest.mark.parametrize("supervised", [True, False])
def test_a_job_killed_from_outside_is_failed_with_its_last_lines(jobs: JobManager, supervised: bool) -> None:
    run = launch(jobs, ENDLESS)
    pid = until_begun(jobs, run)
    if not supervised:
        job = read_job(jobs.root / run)
        assert job is not None
        assert job.supervisor is not None
        os.kill(job.supervisor["pid"], signal.SIGKILL)
        until(lambda: lives(job.supervisor["pid"]), lambda alive: not alive)  # type: ignore[index]
        assert jobs.status(run).state == "running"
    os.kill(pid, signal.SIGKILL)
    until_ended(jobs, run)
    status = JobManager(jobs.root).status(run)
    assert status.state == "failed"
    assert "killed" in status.message
    assert status.message.endswith("its last lines:\nbegun")
    noted = read_job(jobs.root / run)
    assert noted is not None
    assert noted.state == "failed"


def test_a_number_that_another_program_took_over_is_not_the_job_and_is_left_alone(jobs: JobManager) -> None:
    run = launch(jobs, ENDLESS)
    os.kill(until_begun(jobs, run), signal.SIGKILL)
    until_ended(jobs, run)
    with subprocess.Popen([sys.executable, "-c", ENDLESS], start_new_session=True) as other:
        folder = jobs.root / run
        told = json.loads((folder / JOB).read_text())
        mark = {**asdict(ProcessMark.of(other.pid)), "started": told["started"] - 1000}
        (folder / JOB).write_text(json.dumps({**told, "state": "running", "process": mark, "supervisor": mark}))
        with pytest.raises(BitdialError, match="which is failed"):
            jobs.stop(run)
        assert jobs.status(run).state == "failed"
        assert lives(other.pid)
        other.kill()


def test_what_ignores_the_stop_is_killed_with_its_children(jobs: JobManager) -> None:
    run = launch(jobs, STUBBORN)
    pid = until_begun(jobs, run)
    child = int(jobs.log(run, 0).text.split()[1])
    jobs.stop(run, grace=0.3)
    assert jobs.status(run).state == "stopping"
    until_ended(jobs, run)
    assert jobs.status(run).state == "stopped"
    assert not lives(pid)
    until(lambda: lives(child), lambda alive: not alive)


def test_children_of_a_dead_leader_are_ended_too(jobs: JobManager) -> None:
    run = launch(jobs, STUBBORN)
    pid = until_begun(jobs, run)
    job = read_job(jobs.root / run)
    assert job is not None
    assert job.supervisor is not None
    os.kill(job.supervisor["pid"], signal.SIGKILL)
    until(lambda: lives(job.supervisor["pid"]), lambda alive: not alive)  # type: ignore[index]
    child = int(jobs.log(run, 0).text.split()[1])
    jobs.stop(run, grace=0.3)
    until(lambda: lives(pid) or lives(child), lambda alive: not alive)
    assert jobs.status(run).state == "stopped"


def test_two_stops_are_one(jobs: JobManager) -> None:
    twice = SAVES.replace("print('saved', flush=True)", "print('saved', flush=True); time.sleep(1)")
    run = launch(jobs, twice)
    until_begun(jobs, run)
    for manager in (jobs, JobManager(jobs.root)):
        manager.stop(run)
    until_ended(jobs, run)
    assert jobs.log(run, 0).text == "begun\nsaved\n"


def test_a_second_job_on_a_device_waits_and_then_starts(jobs: JobManager) -> None:
    first = launch(jobs, SAVES)
    until_begun(jobs, first)
    second, elsewhere = launch(jobs, "print('begun')"), launch(jobs, "print('begun')", devices=["cuda:0"])
    until_ended(jobs, elsewhere)
    assert (jobs.status(second).state, jobs.status(second).waiting_for) == ("waiting", first)
    jobs.stop(first)
    until_ended(jobs, second)
    assert jobs.status(second).state == "finished"


def test_jobs_started_at_once_run_one_after_the_other(jobs: JobManager) -> None:
    alone = (
        "import os, sys, time; place = sys.argv[1] + '/../here'\n"
        "os.close(os.open(place, os.O_CREAT | os.O_EXCL)); time.sleep(.3); os.unlink(place)"
    )
    started = list[str]()
    threads = [threading.Thread(target=lambda: started.append(launch(JobManager(jobs.root), alone))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for run in started:
        until_ended(jobs, run)
    assert sorted(started) == ["cyclic-1", "cyclic-2", "cyclic-3", "cyclic-4"]
    assert {jobs.status(run).state for run in started} == {"finished"}


def test_what_waits_can_be_stopped_or_killed_and_the_next_one_starts(jobs: JobManager) -> None:
    first = launch(jobs, SAVES)
    until_begun(jobs, first)
    stopped, killed, last = (launch(jobs, "print('begun')") for _ in range(3))
    jobs.stop(stopped)
    until_ended(jobs, stopped)
    assert (jobs.status(stopped).state, jobs.status(stopped).message) == ("stopped", "stopped before it began")
    job = until(lambda: read_job(jobs.root / killed), lambda job: job is not None and job.supervisor is not None)
    assert job is not None
    assert job.supervisor is not None
    os.kill(job.supervisor["pid"], signal.SIGKILL)
    until_ended(jobs, killed)
    assert jobs.status(killed).state == "failed"
    jobs.stop(first)
    until_ended(jobs, last)
    assert jobs.status(last).state == "finished"
    jobs.resume(stopped)  # from its beginning
    until_ended(jobs, stopped)
    assert jobs.status(stopped).state == "finished"


def test_a_hundred_megabytes_of_output(jobs: JobManager) -> None:
    loud = "print('begun'); line = 'x' * 99 + '\\n'\nfor _ in range(100): print(line * 10000, end='')\nprint('end')"
    run = launch(jobs, loud + "; import time; time.sleep(600)")
    until(lambda: jobs.log(run).text, lambda text: text.endswith("end\n"))
    part = jobs.log(run)
    assert len(part.text) <= output.MOST_TEXT
    assert part.next == 100_000_000 + len("begun\nend\n")
    until((jobs.root / run / OUTPUT).stat, lambda facts: facts.st_blocks * 512 <= output.BIGGEST_OUTPUT)
    first = jobs.log(run, 0)
    assert first.start > 80_000_000
    assert set(first.text) <= set("xend\n")
    again = jobs.log(run, part.next)
    assert (again.text, again.more) == ("", False)


def test_a_run_folder_removed_while_it_trains(jobs: JobManager) -> None:
    import shutil

    run, other = launch(jobs, ENDLESS), launch(jobs, "print('begun')")
    pid = until_begun(jobs, run)
    shutil.rmtree(jobs.root / run)
    assert [each.id for each in jobs.list()] == [other]
    for call in (jobs.status, jobs.log, jobs.series, jobs.files, jobs.stop, jobs.remove):
        with pytest.raises(BitdialError, match="expected the id of a run"):
            call(run)
    os.kill(pid, signal.SIGKILL)
    until_ended(jobs, other)
    assert not (jobs.root / run).exists()


def test_a_full_disk(tmp_path: Path) -> None:
    from tests.app.stand_in import ending_all

    with mounted(tmp_path / "small", "256k") as disk, ending_all(JobManager(disk / "runs")) as jobs:
        run = launch(jobs, SAVES)
        until_begun(jobs, run)
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        with pytest.raises(BitdialError, match="No space left"):
            launch(jobs, ENDLESS)
        assert [each.id for each in jobs.list()] == [run]
        jobs.stop(run)
        until_ended(jobs, run)
        filler.unlink()
        assert jobs.status(run).state in ("stopped", "failed")  # that it was asked to had no room to be noted
        jobs.remove(run)


def test_a_damaged_job(jobs: JobManager) -> None:
    run = launch(jobs, "print('begun')")
    until_ended(jobs, run)
    until(lambda: jobs.status(run).state, lambda state: state == "finished")
    for content in (b"", b"{", b"[]", b"\xff\x00", b'{"version": 9}', b'"x"', b"[" * 100000, b"1" * 5000):
        (jobs.root / run / JOB).write_bytes(content)
        (status,) = JobManager(jobs.root).list()
        assert status.state == "stopped"
        assert "job.json is damaged" in status.message
    jobs.remove(run)
    assert jobs.list() == []


def test_what_lives_is_not_removed_and_two_that_remove_do_so_once(jobs: JobManager) -> None:
    run = launch(jobs, SAVES)
    until_begun(jobs, run)
    with pytest.raises(BitdialError, match=f"{run} is running; stop it first"):
        jobs.remove(run)
    jobs.stop(run)
    until_ended(jobs, run)
    told = list[str]()

    def remove() -> None:
        try:
            JobManager(jobs.root).remove(run)
            told.append("removed")
        except BitdialError as error:
            told.append(str(error))

    threads = [threading.Thread(target=remove) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told.count("removed") == 1
    assert [path.name for path in jobs.root.iterdir()] == [".queue"]


def test_a_training_by_hand_is_found_and_stopped(jobs: JobManager, tmp_path: Path) -> None:
    folder = jobs.root / "mine"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("recipe: cyclic\nmodel: mlp\ndataset: digits\n")
    with subprocess.Popen([sys.executable, "-c", SAVES], stdout=subprocess.PIPE, start_new_session=True) as training:
        mark = asdict(ProcessMark.of(training.pid))
        told = {"process": mark, "began": time.time(), "updated": time.time(), "doing": "training", "share": 0.25}
        (folder / "progress.json").write_text(json.dumps(told))
        status = jobs.status("mine")
        assert (status.state, status.managed, status.pid, status.percent) == ("running", False, training.pid, 25)
        assert (status.recipe, status.model, status.dataset) == ("cyclic", "mlp", "digits")
        assert training.stdout is not None
        assert training.stdout.readline() == b"begun\n"  # it knows by now what to do when it is asked to stop
        jobs.stop("mine")
        assert training.wait(30) == 130
    assert jobs.status("mine").state == "failed"  # this one does not note how it ended
