"""Where a study is kept: a journal file, a PostgreSQL server, or a gRPC proxy, told apart by how their names begin."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitdial.errors import BitdialError, suggest

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

KINDS = ("journal:FILE", "postgresql://USER@HOST/DATABASE", "grpc://HOST:PORT")
SECONDS_TO_CONNECT = 10
_TRIES = 5
"""Workers that begin at once may make the tables of a new database together, and all but one of them fail at first."""


def check_storage(name: str) -> None:
    """Refuse what names no storage; needs no Optuna.

    Raises:
        BitdialError: the text says what there is.
    """
    kind, colon, rest = name.partition(":")
    kinds = {each.partition(":")[0]: each for each in KINDS}
    if not colon or kind not in kinds:
        hint = suggest(kind, kinds) if colon else ""
        raise BitdialError(f"storage must be {', '.join(KINDS[:-1])} or {KINDS[-1]}, got '{shown(name)}'{hint}")
    if kind == "journal" and (not rest or rest.endswith("/") or (os.path.exists(rest) and not os.path.isfile(rest))):
        raise BitdialError(f"storage journal:FILE must name a file, got '{rest}'; e.g. journal:runs/study.log")
    if kind == "postgresql" and not re.match(r"//.*/.", rest):
        raise BitdialError(f"storage must be {kinds[kind]}, got '{shown(name)}'; name the database")
    if kind == "grpc" and not (address := re.fullmatch(r"//([^/:\s]+):(\d{1,5})/?", rest)):
        raise BitdialError(f"storage must be {kinds[kind]}, got '{shown(name)}'; e.g. grpc://server:13000")
    elif kind == "grpc" and address and not 0 < int(address[2]) < 2**16:
        raise BitdialError(f"the port of '{name}' must be in [1, 65535]; correct it")


def shown(name: str) -> str:
    """The name of a storage as it may be printed: without a password."""
    hidden = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", name)
    return re.sub(r"(password=)[^&\s]*", r"\1***", hidden, flags=re.IGNORECASE)


def open_storage(name: str) -> BaseStorage:
    """Open a storage; make the file or the tables where they are missing.

    Raises:
        BitdialError: it cannot be reached, written, or read.
    """
    check_storage(name)
    with storage_faults(name):
        kind, _, rest = name.partition(":")
        if kind == "journal":
            return _journal(Path(rest))
        if kind == "grpc":
            from optuna.storages import GrpcStorageProxy

            host, _, port = rest.strip("/").partition(":")
            proxy = GrpcStorageProxy(host=host, port=int(port))
            proxy.wait_server_ready(timeout=SECONDS_TO_CONNECT)
            return proxy
        return _database(name)
    raise AssertionError


def close_storage(storage: BaseStorage) -> None:
    """Give back the connections of a storage, where it has some."""
    storage.remove_session()
    backend = getattr(storage, "_backend", storage)
    if hasattr(backend, "engine"):
        backend.engine.dispose()
    elif hasattr(storage, "close"):  # a gRPC proxy
        storage.close()


def _database(name: str) -> BaseStorage:
    import sqlalchemy
    from optuna.storages import RDBStorage

    if importlib.util.find_spec("psycopg2") is None:
        if importlib.util.find_spec("psycopg") is None:
            raise BitdialError('postgresql:// needs psycopg, which is not installed; pip install "psycopg[binary]"')
        name = name.replace("postgresql:", "postgresql+psycopg:", 1)
    how = {"pool_pre_ping": True, "connect_args": {"connect_timeout": SECONDS_TO_CONNECT}}
    for _ in range(_TRIES - 1):
        try:
            return RDBStorage(name, engine_kwargs=how)
        except faults() as error:
            if isinstance(error, sqlalchemy.exc.OperationalError):  # no server, no such user
                raise
            time.sleep(0.5)
    return RDBStorage(name, engine_kwargs=how)


def _journal(path: Path) -> BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.storages.journal._file import get_lock_file

    class Journal(JournalFileBackend):
        """A journal that gets over a line that its writer was killed in, and says which line is no entry."""

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            lines = "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in logs)
            with get_lock_file(self._lock), open(self._file_path, "r+b") as file:
                _cut_torn_line(file)
                file.write(lines.encode())
                file.flush()
                os.fsync(file.fileno())

        def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
            number = log_number_from
            try:
                for log in super().read_logs(log_number_from):
                    if not isinstance(log, dict) or not {"op_code", "worker_id"} <= log.keys():
                        raise ValueError
                    yield log
                    number += 1
            except ValueError:
                raise BitdialError(
                    f"{path}, line {number + 1}: expected an entry of a study's journal, got something else: the file "
                    "is damaged or of another kind; bring back a copy of it, or give --storage another file"
                ) from None

    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(Journal(str(path)))


def _cut_torn_line(file: Any) -> None:
    """Go to the end of a journal, before a last line that was never finished; the journal is locked."""
    end = file.seek(0, os.SEEK_END)
    if end == 0:
        return
    start, tail = end, b""
    while start > 0 and b"\n" not in tail:
        start = max(0, start - 65536)
        file.seek(start)
        tail = file.read(end - start)
    sound = start + tail.rfind(b"\n") + 1
    if sound < end:
        file.truncate(sound)
    file.seek(sound)


def faults() -> tuple[type[Exception], ...]:
    """What a storage raises when it is lost, of the libraries that are loaded."""
    names = (("optuna.exceptions", "StorageInternalError"), ("sqlalchemy.exc", "SQLAlchemyError"), ("grpc", "RpcError"))
    found = [getattr(sys.modules[module], name) for module, name in names if module in sys.modules]
    return (OSError, *found)


@contextmanager
def storage_faults(name: str) -> Iterator[None]:
    """Say in a sentence that a storage is lost."""
    try:
        yield
    except BitdialError:
        raise
    except Exception as error:
        if not isinstance(error, faults()) and not (name.startswith("journal:") and _is_misread(error)):
            raise
        told = getattr(error, "orig", None) or getattr(error, "strerror", None)
        with contextlib.suppress(Exception):
            told = told or error.details()  # type: ignore[attr-defined]  # of gRPC
        text = " ".join(str(told or error).split())
        raise BitdialError(
            f"the storage {shown(name)} cannot be used ({shown(text)[:200] or type(error).__name__}); check that it is "
            "there, may be written and has space"
        ) from error


def _is_misread(error: Exception) -> bool:
    """Whether entries of a journal make no sense together."""
    trace, last = error.__traceback__, ""
    while trace is not None:
        last, trace = str(trace.tb_frame.f_globals.get("__name__", "")), trace.tb_next
    return last.startswith("optuna.storages.journal")
