"""Whom the server answers, and what it gives: over real sockets, to a server as a user starts it."""

from __future__ import annotations

import base64
import http.client
import importlib.util
import json
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

if importlib.util.find_spec("gradio") is None:  # not loaded here: that takes seconds
    pytest.skip("the extra app is not installed", allow_module_level=True)

from tests.app.served import Served, serving

RIGHT = f"Basic {base64.b64encode(b'anna:right').decode()}"
SECRET = "this must not be served"
EVIL = '<img src=x onerror="document.title=1">'


def made_up(root: Path, name: str, **files: str) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"recipe: joint\nmodel: {json.dumps(EVIL)}\ndataset: digits\n")
    for file, text in files.items():
        (folder / file.replace("__", ".")).write_text(text)
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("guard")
    runs = place / "runs"
    (place / "secret.txt").write_text(SECRET)
    folder = made_up(
        runs, "joint-1", report__html="<p>report", results__json="{}", metrics__csv="step,train_loss\n1,2\n"
    )
    (folder / "plots").mkdir()
    (folder / "linked.json").symlink_to(place / "secret.txt")
    (folder / "report2.html").symlink_to(place / "secret.txt")
    (runs / "linked-run").symlink_to(place)
    made_up(place, "outside", results__json=SECRET)
    (place / "password").write_text("right\n")
    (place / "password").chmod(0o600)
    with serving(place, "--port", "0", "--auth", "anna:password") as found:
        yield found


def ask(
    served: Served, path: str, method: str = "GET", body: bytes | None = None, **headers: str | None
) -> tuple[int, dict[str, str], bytes]:
    """One request, its path sent as it is, with the password; a header that is None is left out."""
    where = urlsplit(served.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    connection.putrequest(method, path, skip_host=True)
    given = {
        "Host": where.netloc,
        "Authorization": RIGHT,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    if body is not None:
        given.setdefault("Content-Length", str(len(body)))
    for name, value in given.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    connection.close()
    return found


def test_what_may_be_served_is(served: Served) -> None:
    assert ask(served, "/")[0] == 200
    status, headers, body = ask(served, "/files/joint-1/report.html")
    assert (status, body) == (200, b"<p>report")
    assert headers["content-security-policy"].startswith("sandbox")
    assert "allow-same-origin" not in headers["content-security-policy"]
    assert json.loads(ask(served, "/api/runs/joint-1")[2])["id"] == "joint-1"


OUTSIDE = [
    "/files/joint-1/../../secret.txt",
    "/files/joint-1/..%2f..%2fsecret.txt",
    "/files/joint-1/%2e%2e/%2e%2e/secret.txt",
    "/files/joint-1/..%252f..%252fsecret.txt",
    "/files/joint-1/..%5c..%5csecret.txt",
    "/files/joint-1/%00secret.txt",
    "/files/joint-1/linked.json",
    "/files/joint-1/report2.html",
    "/files/joint-1/config.yaml/../../../secret.txt",
    "/files/../outside/results.json",
    "/files/..%2foutside/results.json",
    "/files/%2e%2e/secret.txt",
    "/files/linked-run/secret.txt",
    "/files/linked-run/outside/results.json",
    "/files//etc/passwd",
    "/files/joint-1//etc/passwd",
    "/api/runs/..%2foutside",
    "/api/runs/..%2foutside/log",
    "/api/runs/linked-run",
    "/api/runs/../../outside",
    "/gradio_api/file={secret}",
    "/gradio_api/file=secret.txt",
    "/gradio_api/file=runs/joint-1/config.yaml",
    "/gradio_api/file%3D{secret}",
    "/gradio_api/file/{secret}",
    "/file={secret}",
    "/static/../../../../../../../..{secret}",
    "/static/..%2f..%2f..%2f..%2f..%2f..%2f..{secret}",
    "/assets/%2e%2e/%2e%2e/{secret}",
    "/svelte/..%2f..%2f{secret}",
    "/gradio_api/proxy=http://127.0.0.1/",
    "/gradio_api/stream/a/b/1/playlist-file",
    "/gradio_api/vibe-code/",
    "/monitoring",
    "/gradio_api/runs",
    "/gradio_api/deep_link",
    "/gradio_api/dev/reload",
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_nothing_outside_of_the_run_folders_is_served(served: Served, path: str) -> None:
    status, _, body = ask(served, path.replace("{secret}", str(served.folder / "secret.txt")))
    assert status in (403, 404, 405, 421), (path, status)
    assert SECRET.encode() not in body
    assert b"root:" not in body


NOWHERE = [
    "/nothing",
    "/train-nothing",
    "/train-",
    "/Runs",
    "/files/joint-1/no.json",
    "/files/no/report.html",
    "/runs/joint-1",
]


@pytest.mark.parametrize("path", NOWHERE)
def test_a_browser_is_told_in_a_page_that_nothing_is_there_and_a_program_in_plain_words(
    served: Served, path: str
) -> None:
    assert ask(served, "/runs")[0] == 200  # the pages are made
    status, headers, body = ask(served, path, Sec_Fetch_Mode="navigate", Sec_Fetch_Site="none")
    assert (status, headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert b'<p role="status"' in body
    assert b'<a href="/runs">' in body
    assert headers["content-length"] == str(len(body))
    assert headers["x-frame-options"] == "DENY"
    status, headers, _ = ask(served, path)
    assert (status, headers["content-type"].partition(";")[0]) in ((404, "application/json"), (404, "text/plain"))


def test_a_name_that_is_markup_is_text_on_the_page_that_says_so(served: Served) -> None:
    assert ask(served, "/runs")[0] == 200  # the pages are made
    status, _, body = ask(served, "/files/%3Cb%3Ex/report.html", Sec_Fetch_Mode="navigate", Sec_Fetch_Site="none")
    assert (status, b"<b>" in body) == (404, False)


def test_every_recipe_has_an_address_of_its_own_name(served: Served) -> None:
    for recipe in ("cyclic", "ternary", "joint", "compress"):
        assert ask(served, f"/train-{recipe}")[0] == (307 if recipe == "cyclic" else 200)
    assert ask(served, "/train-cyclic")[1]["location"] == "/"
    assert ask(served, "/train-cyclic?lr=1&model=a%26b")[1]["location"] == "/?lr=1&model=a%26b"
    assert ask(served, "/train-cyclic?//evil.example/")[1]["location"] == "/?//evil.example/"


def test_no_upload_is_taken_and_no_pickle_read(served: Served) -> None:
    mark = served.folder / "executed"

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return (Path.write_text, (mark, "x"))  # type: ignore[return-value]

    data = (
        b"--b\r\nContent-Disposition: form-data; name=files; filename=m.pt\r\n\r\n"
        + pickle.dumps(Bomb())
        + b"\r\n--b--"
    )
    for path in ("/gradio_api/upload", "/upload", "/gradio_api/upload?upload_id=1", "/gradio_api/process_recording"):
        assert ask(served, path, "POST", data, Content_Type="multipart/form-data; boundary=b")[0] in (404, 405)
    named = {"path": str(mark), "meta": {"_type": "gradio.FileData"}}
    body = json.dumps({"data": [named, named, named], "session_hash": "a", "fn_index": 0}).encode()
    ask(served, "/gradio_api/queue/join", "POST", body, Content_Type="application/json")
    assert not mark.exists()


CROSS = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "http://localhost"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
]


@pytest.mark.parametrize("headers", CROSS, ids=str)
def test_posts_from_other_sites_are_refused(served: Served, headers: dict[str, str]) -> None:
    for path in ("/gradio_api/queue/join", "/gradio_api/call/train_joint", "/gradio_api/run/train_joint"):
        assert ask(served, path, "POST", b"{}", **headers)[0] == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:7860", "10.0.0.1", "", "[", "a b"]
)
def test_a_name_that_somebody_else_points_here_is_refused(served: Served, host: str) -> None:
    for method in ("GET", "POST"):
        assert ask(served, "/api/runs", method, Host=host)[0] in (400, 421)


def test_a_link_from_another_site_may_open_a_page_and_nothing_more(served: Served) -> None:
    visit = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask(served, "/runs", **visit)[0] == 200
    assert ask(served, "/api/runs", **{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"})[0] == 403
    assert ask(served, "/runs")[1]["x-frame-options"] == "DENY"


def test_a_body_larger_than_any_form_is_refused(served: Served) -> None:
    where = {"Content_Type": "application/json"}
    assert ask(served, "/gradio_api/queue/join", "POST", b"", Content_Length=str(1 << 30), **where)[0] == 413
    assert ask(served, "/gradio_api/queue/join", "POST", b"", Content_Length="many", **where)[0] in (400, 413)


def test_a_thousand_status_requests_at_once_are_all_answered(served: Served) -> None:
    answers: list[int] = []

    def some() -> None:
        where = urlsplit(served.url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=120)
        connection.request("GET", "/api/runs/joint-1", headers={"Authorization": RIGHT})
        answer = connection.getresponse()
        assert json.loads(answer.read())["id"] == "joint-1"
        answers.append(answer.status)
        connection.close()

    threads = [threading.Thread(target=some) for _ in range(1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 1000
    assert ask(served, "/api/runs/joint-1")[0] == 200


def test_a_server_that_nobody_asks_sleeps(served: Served) -> None:
    """Gradio's own loops wake a thousand times a second, which takes a twentieth of a core from the runs."""

    def woken() -> int:
        status = Path(f"/proc/{served.process.pid}/status").read_text()
        return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])

    for _ in range(5):  # something may still be ending
        before = woken()
        time.sleep(1)
        found = woken() - before
        if found < 200:
            break
    assert found < 200


EVERYTHING = [
    "/",
    "/runs",
    "/api/runs",
    "/api/runs/joint-1/log",
    "/files/joint-1/results.json",
    "/gradio_api/info",
    "/config",
    "/theme.css",
]


@pytest.mark.parametrize("path", EVERYTHING)
def test_a_password_guards_everything(served: Served, path: str) -> None:
    assert ask(served, path, Authorization=None)[0] == 401
    for given in ("anna:wrong", "anna:", ":right", "anna:right ", "otto:right", "anna"):
        word = base64.b64encode(given.encode()).decode()
        assert ask(served, path, Authorization=f"Basic {word}")[0] == 401, given
    assert ask(served, path, Authorization="Basic \xff\xfe")[0] == 401
    assert ask(served, path, Authorization=RIGHT.replace("Basic", "Bearer"))[0] == 401
    assert ask(served, path)[0] == 200
