"""Starting the app: what is refused, and with which sentence, before anything listens or is loaded."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from bitdial.app.web.command import AppConfig, listen, login_of
from bitdial.cli import main
from bitdial.configuration import load_config
from bitdial.errors import BitdialError

BAD = [
    ("--host 0.0.0.0", "expected --auth user:FILE together with host 0.0.0.0, got none"),
    ("--host 192.0.2.1", "expected --auth user:FILE together with host 192.0.2.1"),
    ("--host example.org", "expected --auth user:FILE together with host example.org"),
    ("--host ::", "expected --auth user:FILE together with host ::"),
    ("--host 127.0.0.2", "expected --auth user:FILE together with host 127.0.0.2"),
    ("--share", "expected --auth user:FILE together with share, got none"),
    ("--share --host localhost", "expected --auth user:FILE together with share, got none"),
    ("--password right", "unknown flag --password"),
    ("--auth anna:. --share", "--auth: expected a file that holds the password after the colon, got '.'"),
    ("--auth :file --share", "--auth: expected user:FILE, got ':file'"),
    ("--auth anna:missing", "--auth: expected a file that holds the password after the colon, got 'missing'"),
    ("--auth anna", "--auth: expected user:FILE, or a password in BITDIAL_APP_PASSWORD, got neither"),
    ("--auth anna:empty", "--auth: expected one line with the password in empty, got none"),
    ("--auth anna:two", "--auth: expected one line with the password in two, got several"),
    ("--port 70000", "--port: expected a value less than or equal to 65535, got 70000"),
    ("--port http", "--port: expected a whole number or none, got 'http'"),
    ("--root missing", "--root: expected a folder at missing, got nothing"),
    ("--root two", "--root: expected a folder at two, got a file"),
    ("--runs two", "--runs: expected a folder at two, got a file"),
    ("--prt 1", "unknown flag --prt; did you mean '--port'?"),
    ("--auth anna:pw --host 192.0.2.1", "--host: expected an address of this machine, got '192.0.2.1'"),
    ("runs", "expected a flag, got 'runs'"),
]


@pytest.mark.parametrize(("line", "sentence"), BAD)
def test_a_mistake_is_a_sentence(
    line: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BITDIAL_APP_PASSWORD", raising=False)
    for name, text in {"empty": "", "two": "a\nb", "pw": "right"}.items():
        (tmp_path / name).write_text(text)
    assert main(["app", *line.split()]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_busy_port_is_a_sentence_or_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(BitdialError, match=f"--port: expected a free port, got {port}"):
            listen("127.0.0.1", port)
        monkeypatch.setattr("bitdial.app.web.command.FIRST", port)
        monkeypatch.setattr("bitdial.app.web.command.LAST", port)
        with pytest.raises(BitdialError, match="expected a free port between"):
            listen("127.0.0.1", None)
        monkeypatch.setattr("bitdial.app.web.command.LAST", min(port + 50, 65535))
        with listen("127.0.0.1", None) as found:
            assert port < found.getsockname()[1] <= port + 50
            assert found.getsockname()[0] == "127.0.0.1"


def test_the_password_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p").write_text("a:b c\n")
    (tmp_path / "p").chmod(0o600)
    assert login_of(f"anna:{tmp_path / 'p'}") == ("anna", "a:b c")
    monkeypatch.setenv("BITDIAL_APP_PASSWORD", "d")
    assert login_of("anna") == ("anna", "d")
    assert login_of(None) is None


@pytest.mark.skipif(os.name != "posix", reason="rights of another kind")
@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o604, 0o620, 0o644])
def test_a_password_that_others_can_read_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: int
) -> None:
    file = tmp_path / "p"
    file.write_text("secret")
    file.chmod(mode)
    assert login_of(f"anna:{file}") == ("anna", "secret")
    told = capsys.readouterr().err
    assert (f"chmod 600 {file}" in told) == (mode not in (0o600, 0o400))
    assert "secret" not in told


@pytest.mark.parametrize(
    "line", ["", "--host localhost", "--host ::1", "--host 0.0.0.0 --auth anna", "--share --auth anna"]
)
def test_what_is_open_to_this_machine_alone_or_guarded_is_allowed(line: str) -> None:
    load_config(AppConfig, {}, line.split(), prog="bitdial app")


def test_without_gradio_there_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["app"]) == 2
    assert "needs gradio, which is not installed; install bitdial[app]" in capsys.readouterr().err
    assert "bitdial.app.web.server" not in sys.modules or "gradio" in sys.modules
