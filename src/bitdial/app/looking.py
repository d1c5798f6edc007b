"""How a run stands, by what lies in its folder and which of its processes live; nothing here needs torch."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from bitdial.app.output import harmless, last_lines
from bitdial.app.queue import Queue
from bitdial.app.records import Job, RunStatus, Score, State, mark_of
from bitdial.app.store import change_job, read_bytes, read_job
from bitdial.processes import ProcessMark
from bitdial.training.run_folder import JOB, OUTPUT

SILENT_SECONDS = 90.0
"""A job of another machine that gave no sign of life for so long is dead; likewise one whose processes cannot be found
yet, because it is being started."""
MOST_RESULTS = 64 << 20
_TOP_SETTING = re.compile(rb"^(?:recipe|model|dataset|cyclic):.*$", re.MULTILINE)
_SCORES = {name: re.compile(rb'"%s":\s*(-?[0-9][0-9.eE+-]*)' % name.encode()) for name in ("accuracy", "psnr")}
_NOBODY_KNOWS = "it is not finished, and nothing tells why; it can be resumed"
_KILLED = "its process was killed, or the machine went down; it can be resumed"


def look(folder: Path, kept: dict[Path, tuple[Any, Any]]) -> RunStatus:
    """How a run stands.

    Args:
        folder: of the run.
        kept: what was read of files that change seldom, to be read again only when they have changed.
    """
    job, told = read_job(folder), mapping_in(read_bytes(folder / "progress.json"))
    facts = _facts(folder, job, told, kept)
    process = mark_of(told.get("process"))
    if job is None or (_by_hand(job, told, process) and process is not None and process.lives()):
        state, message = _state_by_hand(folder, told, process)
        if job is None and (folder / JOB).exists():
            message = f"job.json is damaged; {message}".removesuffix("; ")
        return _status(folder, state, message, facts, told, process, None)
    state, message = _state_of_job(folder, job)
    fresh = told if (_number(told.get("updated")) or 0.0) >= (job.started or math.inf) - 1 else {}
    if state in ("stopped", "failed") and fresh.get("message") and job.exit_code is not None and job.exit_code >= 0:
        message = str(fresh["message"])
    alive = mark_of(job.process) if state in ("running", "stopping") else None
    return _status(folder, state, message, facts, fresh or ({} if state == "running" else told), alive, job)


def _status(
    folder: Path,
    state: State,
    message: str,
    facts: Mapping[str, Any],
    told: Mapping[str, Any],
    process: ProcessMark | None,
    job: Job | None,
) -> RunStatus:
    live = state in ("running", "stopping")
    began, ended = _number(told.get("began")), _number(told.get("updated"))
    if job is not None and job.started is not None:
        began, ended = job.started, job.ended
    seconds = None if began is None else max(0.0, (time.time() if live else ended or began) - began)
    share = _number(told.get("share"))
    percent = 100.0 if state == "finished" else None if share is None else round(100 * min(max(share, 0), 1), 1)
    return RunStatus(
        id=folder.name,
        state=state,
        recipe=facts["recipe"],
        model=facts["model"],
        dataset=facts["dataset"],
        device=",".join(job.devices) if job is not None else "",
        managed=job is not None,
        waiting_for=(Queue(folder.parent).before(job.ticket) or "") if job is not None and state == "waiting" else "",
        doing=harmless(told.get("doing") or "loading") if live else "",
        arm=harmless(told.get("arm")),
        step=_whole(told.get("step")),
        total=_whole(told.get("total")),
        percent=percent,
        seconds_left=_number(told.get("seconds_left")) if live else None,
        values={harmless(k): v for k, each in _mapping(told.get("values")).items() if (v := _number(each)) is not None},
        score=facts["score"] if state == "finished" else _best(told),
        seconds=seconds,
        created=facts["created"],
        message=harmless(message),
        pid=process.pid if live and process is not None else None,
    )


def _state_by_hand(folder: Path, told: Mapping[str, Any], process: ProcessMark | None) -> tuple[State, str]:
    """State and message of a run that nobody manages."""
    finished = (folder / "results.json").is_file()
    if not told:
        return ("finished", "") if finished else ("stopped", _NOBODY_KNOWS)
    ended, message = told.get("ended"), str(told.get("message") or "")
    if ended == "finished" and finished:
        return "finished", ""
    if ended in ("stopped", "failed"):
        return ended, message
    alive = None if process is None else process.lives()
    if alive is None:
        alive = process is not None and time.time() - (_number(told.get("updated")) or 0) < 10 * SILENT_SECONDS
    if alive:
        return "running", ""
    return ("finished", "") if finished else ("failed", _KILLED)


def _state_of_job(folder: Path, job: Job) -> tuple[State, str]:
    """State and message of a job; where its processes are gone, that is noted."""
    if job.state in ("finished", "stopped", "failed"):
        return job.state, job.message
    supervisor, process = mark_of(job.supervisor), mark_of(job.process)
    lives = [None if each is None else each.lives() for each in (supervisor, process) if each is not None]
    if True in lives:
        alive = True
    elif supervisor is None or None in lives:  # being started, or on another machine
        alive = time.time() - max(job.created, job.heartbeat) < SILENT_SECONDS
    else:
        alive = False
    if alive:
        stopping = job.stop_requested is not None
        return "stopping" if stopping else job.state, ""
    new: dict[str, Any] = {}

    def end(now: Job) -> dict[str, Any] | None:
        if now.state not in ("waiting", "running") or now.token != job.token:
            new.update(state=now.state, message=now.message)  # noted meanwhile
            return None
        new.update(_end_of_lost(folder, now), ended=time.time())
        return new

    with suppress(OSError):  # another user's folder, or a full disk: it is told all the same
        change_job(folder, end)
    if not new:
        new.update(_end_of_lost(folder, job))
    return new["state"], new["message"]


def _end_of_lost(folder: Path, job: Job) -> dict[str, Any]:
    results = folder / "results.json"
    with suppress(OSError):
        if job.started is not None and results.stat().st_mtime >= job.started:
            return {"state": "finished", "message": ""}
    output = last_lines(folder / OUTPUT)
    if job.stop_requested is not None:
        return {"state": "stopped", "message": output or "stopped before it began"}
    lines = f"its process was killed, or the machine went down; its last lines:\n{output}" if output else _KILLED
    return {"state": "failed", "message": lines}


def _by_hand(job: Job, told: Mapping[str, Any], process: ProcessMark | None) -> bool:
    """Whether a run that was a job is now trained by a process of no job."""
    return process is not None and process != mark_of(job.process) and job.state not in ("waiting", "running")


def _facts(folder: Path, job: Job | None, told: Mapping[str, Any], kept: dict[Path, tuple[Any, Any]]) -> dict[str, Any]:
    """What changes seldom: recipe, model, data, when it began, the score."""
    facts = {"recipe": told.get("recipe"), "model": told.get("model"), "dataset": told.get("dataset")}
    if None in facts.values():
        config = _kept(folder / "config.yaml", kept, _config)
        if not config and job is not None:
            config = _kept(folder / "options.yaml", kept, _config)
        from bitdial.recipes import recipe_of

        recipe = (job.recipe if job is not None else None) or (recipe_of(config) if config else "")
        facts = {"recipe": recipe, "model": config.get("model"), "dataset": config.get("dataset")}
    created = job.created if job is not None else _number(told.get("created"))
    if created is None:
        with suppress(OSError):
            created = (folder / "config.yaml").stat().st_mtime
    score = _score(_mapping(told.get("score")))
    if score is None:
        score = _kept(folder / "results.json", kept, _score_in_results)
    return {k: harmless(v) for k, v in facts.items()} | {"created": created or 0.0, "score": score}


def _kept(path: Path, kept: dict[Path, tuple[Any, Any]], read: Any) -> Any:
    try:
        facts = path.stat()
        mark = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
    except OSError:
        mark = None
    if path not in kept or kept[path][0] != mark:
        kept[path] = mark, read(None if mark is None else path)
    return kept[path][1]


def _config(path: Path | None) -> dict[str, Any]:
    """The plain settings at the top of a configuration that say what it is; all of it takes long to read."""
    data = None if path is None else read_bytes(path)
    lines = b"\n".join(_TOP_SETTING.findall(data or b""))
    try:
        return _mapping(yaml.load(lines, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}


def _score_in_results(path: Path | None) -> Score | None:
    """The best accuracy, or PSNR, in results that were made before runs noted it; they may be long."""
    data = None if path is None else read_bytes(path, MOST_RESULTS)
    for measure, pattern in _SCORES.items():
        with suppress(ValueError):  # none, or damaged ones
            return Score(max(map(float, pattern.findall(data or b""))), measure)
    return None


def _score(told: Mapping[str, Any]) -> Score | None:
    value = _number(told.get("value"))
    if value is None:
        return None
    return Score(
        value, harmless(told.get("measure") or "accuracy"), harmless(told.get("what")), _whole(told.get("bytes"))
    )


def _best(told: Mapping[str, Any]) -> Score | None:
    """The best score so far of a run under way."""
    for name, each in _mapping(told.get("values")).items():
        value = _number(each)
        if str(name).startswith("best_") and value is not None:
            return Score(value, harmless(str(name).removeprefix("best_")))
    return None


def mapping_in(data: bytes | None) -> dict[str, Any]:
    """The mapping that a JSON file holds, or an empty one."""
    try:
        return _mapping(json.loads(data or b"{}"))
    except (ValueError, RecursionError):
        return {}


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    with suppress(OverflowError):
        return float(value) if math.isfinite(value) else None
    return None


def _whole(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)
