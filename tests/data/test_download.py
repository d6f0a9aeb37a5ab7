"""Downloads from a real HTTP server on the loopback interface: whole, cut, changed, wrong, refused."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sae_moral.data import load_data, load_social_chem, social_chem
from sae_moral.data.download import Remote, download, fetch
from sae_moral.data.social_chem_tsv import MEMBER
from tests.data.invented_social_chem import write_table


@dataclass
class Server:
    """What it serves, how it misbehaves, and what it was asked for."""

    url: str = ""
    content: bytes = b""
    etag: str = '"1"'
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    """After so many bytes of a response the connection is cut; one entry per response."""
    status: list[int] = field(default_factory=list)
    """Answered instead, one entry per request; 0: nothing instead."""
    asked: list[str | None] = field(default_factory=list)
    """The Range header of every request."""
    sent: int = 0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append(wanted)
            if state.status and (status := state.status.pop(0)):
                self.send_error(status)
                return
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and state.ranges else 0
            if self.headers.get("If-Range", state.etag) != state.etag:
                start = 0
            total = len(state.content)
            if start >= total:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{total}")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            self.send_header("Content-Length", str(total - start))
            self.send_header("ETag", state.etag)
            self.end_headers()
            body = state.content[start:]
            if state.cuts:
                body = body[: state.cuts.pop(0)]
            self.wfile.write(body)
            state.sent += len(body)

        def log_message(self, format: str, *args: object) -> None: ...

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=lambda: httpd.serve_forever(0.02), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{httpd.server_port}/social-chem-101.zip"
    yield state
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def remote(server: Server, tmp_path: Path) -> Remote:
    """An invented table in a zip on the server."""
    table, archive = write_table(tmp_path / "table.tsv", 5000), tmp_path / "table.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.write(table, f"social-chem-101/{MEMBER}")
    server.content = archive.read_bytes()
    return Remote("social-chem-101", server.url, MEMBER, hashlib.sha256(table.read_bytes()).hexdigest())


def test_a_table_is_downloaded_once(server: Server, remote: Remote, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    table = fetch(remote, folder, offline=False)
    assert table.read_bytes() == (tmp_path / "table.tsv").read_bytes()
    assert [path.name for path in folder.iterdir() if not path.name.startswith(".")] == [MEMBER]
    assert fetch(remote, folder, offline=False) == fetch(remote, folder, offline=True) == table
    assert server.asked == [None]


def test_a_cut_download_goes_on_where_it_stopped(server: Server, remote: Remote, tmp_path: Path) -> None:
    total = len(server.content)
    server.cuts = [total // 3, total // 3]
    table = fetch(remote, tmp_path / "cache", offline=False, pause=0)
    assert table.read_bytes() == (tmp_path / "table.tsv").read_bytes()
    assert server.asked == [None, f"bytes={total // 3}-", f"bytes={total // 3 * 2}-"]
    assert server.sent == total  # no byte twice


def test_a_later_call_goes_on_and_a_changed_file_starts_over(server: Server, tmp_path: Path) -> None:
    server.content, target = bytes(range(256)) * 400, tmp_path / "file.zip"
    server.cuts, server.status = [1000], [0, 503]  # one response that is cut, then the server is busy
    with pytest.raises(ValueError, match=r"1 attempts in a row brought nothing .* 1000 bytes are kept"):
        download(server.url, target, attempts=1, pause=0)
    server.cuts, server.status = [500], [0, 503]
    with pytest.raises(ValueError, match="1500 bytes are kept"):
        download(server.url, target, attempts=1, pause=0)
    assert server.asked == [None, "bytes=1000-", "bytes=1000-", "bytes=1500-"]
    assert Path(f"{target}.part").read_bytes() == server.content[:1500]
    server.content, server.etag = server.content[::-1], '"2"'
    assert download(server.url, target, pause=0).read_bytes() == server.content
    assert server.asked[-1] == "bytes=1500-"
    assert [path.name for path in tmp_path.iterdir()] == ["file.zip"]


@pytest.mark.parametrize("left", [0, 7])
def test_a_part_as_long_as_the_file_or_longer(server: Server, tmp_path: Path, left: int) -> None:
    server.content, target = b"whole file", tmp_path / "file.zip"
    Path(f"{target}.part").write_bytes(b"whole file" + b"x" * left)
    assert download(server.url, target, pause=0).read_bytes() == b"whole file"
    assert server.asked == [f"bytes={10 + left}-", *([None] if left else [])]


def test_a_server_without_ranges_and_one_that_is_busy(server: Server, tmp_path: Path) -> None:
    server.content, server.ranges, server.cuts = b"0123456789" * 1000, False, [4000]
    server.status = [503, 429]
    assert download(server.url, tmp_path / "file.zip", pause=0).read_bytes() == server.content
    assert server.asked == [None, None, None, "bytes=4000-"]


def test_what_does_not_exist_is_not_tried_again(server: Server, tmp_path: Path, refused: Callable[..., None]) -> None:
    server.status = [404]
    refused(lambda: download(server.url, tmp_path / "f.zip", pause=0), "404", "check the address", file="f.zip")
    assert len(server.asked) == 1
    server.status = [500] * 3
    again = lambda: download(server.url, tmp_path / "f.zip", attempts=3, pause=0)  # noqa: E731
    refused(again, "3 attempts in a row brought nothing", "put it at", file="f.zip")


def test_a_wrong_checksum_is_refused_and_set_aside(
    server: Server, remote: Remote, tmp_path: Path, refused: Callable[..., None]
) -> None:
    wrong, folder = replace(remote, sha256="0" * 64), tmp_path / "cache"
    refused(lambda: fetch(wrong, folder, offline=False), remote.sha256, "0" * 64, "social-chem-101.zip.rejected")
    assert not (folder / MEMBER).exists()
    assert (folder / "social-chem-101.zip.rejected").read_bytes() == server.content
    assert fetch(remote, folder, offline=False).exists()  # the next attempt starts afresh
    assert server.asked == [None, None]


def test_an_error_page_is_refused(server: Server, remote: Remote, tmp_path: Path, refused: Callable[..., None]) -> None:
    server.content = b"<html><body>Please log in to the network</body></html>"
    refused(lambda: fetch(remote, tmp_path, offline=False), "an HTML or XML page", "set aside")


@pytest.mark.parametrize("variable", ["SAE_MORAL_OFFLINE", "HF_HUB_OFFLINE", None])
def test_offline_is_refused_with_the_path_to_put_the_file_at(
    server: Server, remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    for name in ("SAE_MORAL_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1" if name == variable else "0")
    folder = tmp_path / "cache"
    with pytest.raises(FileNotFoundError) as caught:
        fetch(remote, folder, offline=None if variable else True)
    for word in (str(folder / MEMBER), str(folder / "social-chem-101.zip"), server.url):
        assert word in str(caught.value)
    assert server.asked == []
    folder.mkdir()
    (folder / "social-chem-101.zip").write_bytes(server.content)
    assert fetch(remote, folder, offline=True).exists()
    assert server.asked == []


def test_the_source_without_a_path_is_downloaded_and_kept(
    server: Server, remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    same_data: Callable[..., None], refused: Callable[..., None],
) -> None:  # fmt: skip
    cache = tmp_path / "cache"
    monkeypatch.setenv("SAE_MORAL_CACHE", str(cache))
    monkeypatch.setattr(social_chem, "REMOTE", remote)
    with pytest.raises(FileNotFoundError, match=r"put social-chem-101.v1.0.tsv at"):
        load_data("social-chem-101")  # the tests are offline
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    data = load_data("social-chem-101-full")
    same_data(data, load_social_chem(tmp_path / "table.tsv"))
    assert data.provenance["published_file"] is True
    (cache / "social-chem-101" / MEMBER).unlink()
    same_data(load_data("social-chem-101-full"), data)  # of the parquet file
    same_data(load_data("social-chem-101"), load_data("social-chem-101", path=tmp_path / "table.tsv"))
    assert server.asked == [None]
    for file in (cache / "social-chem-101").glob("*.parquet"):
        file.unlink()
    write_table(cache / "social-chem-101" / MEMBER, 100)
    refused(lambda: load_data("social-chem-101"), remote.sha256, "Remove it", file=MEMBER)
