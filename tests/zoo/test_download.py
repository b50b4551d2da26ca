"""Files that are too large for the wheel: downloaded once, resumed, checked, and placed whole."""

import hashlib
import json
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from filelock import FileLock

from bnn_lightning import zoo
from bnn_lightning.zoo import receipts

CONTENT = random.Random(1).randbytes(LARGE := receipts.LARGEST["weights"] + 1000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """A folder of one file, which can be told to misbehave; notes the ranges that it is asked for."""

    content = CONTENT
    resumes = True
    ends_after: int | None = None
    pause: Callable[[], object] | None = None  # in mid-answer
    asked: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if self.path != "/zoo/net.safetensors":
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.resumes else 0
        content = self.server.content
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        end = len(content) if self.server.ends_after is None else start + self.server.ends_after
        middle = (start + end) // 2
        self.wfile.write(content[start:middle])
        if self.server.pause is not None:
            self.server.pause()
        self.wfile.write(content[middle:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A zoo of one network whose weights are on a server of this machine."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    (folder / "net.bnn").write_bytes(b"packed")
    files = {
        "packed": {"size": 6, "sha256": hashlib.sha256(b"packed").hexdigest()},
        "weights": {"size": LARGE, "sha256": SHA256},
    }
    facts = {"network": "mlp", "data": "digits", "correct": 1, "images": 2, "epochs": 1, "seed": 1}
    texts = {"recipe": "bnn train model=mlp seed=1", "commit": "0" * 40, "license": "CC0"}
    (folder / "net.json").write_text(json.dumps({"name": "net", **facts, **texts, "files": files}))
    monkeypatch.setattr(receipts, "FOLDER", folder)
    server = Server(("127.0.0.1", 0), Handler)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("BNN_ZOO_URL", f"http://127.0.0.1:{server.server_port}/zoo/")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def cache(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "bnn-lightning" / "zoo").glob("*net.safetensors*"))


def partial(tmp_path: Path, content: bytes) -> Path:
    """Leave what an interrupted download leaves."""
    path = tmp_path / "cache" / "bnn-lightning" / "zoo" / f"{SHA256[:16]}-net.safetensors.part"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_a_file_of_the_package_needs_no_server(server: Server) -> None:
    assert zoo.packed_file("zoo:net").read_bytes() == b"packed"
    assert server.asked == []


def test_a_damaged_file_of_the_package_is_refused(server: Server) -> None:
    (receipts.FOLDER / "net.bnn").write_bytes(b"pached")
    with pytest.raises(zoo.ZooError, match="install the package again"):
        zoo.packed_file("zoo:net")


def test_downloaded_once_and_placed_whole(server: Server, tmp_path: Path) -> None:
    path = zoo.weights_file("zoo:net")
    assert path.read_bytes() == CONTENT
    assert path.suffix == ".safetensors"
    assert zoo.weights_file("net") == path
    assert server.asked == [None]
    assert not [file for file in cache(tmp_path) if file.suffix == ".part"]


def test_a_damaged_file_of_the_cache_is_downloaded_again(server: Server) -> None:
    path = zoo.weights_file("net")
    path.write_bytes(CONTENT[:-1] + b"?")
    assert zoo.weights_file("net").read_bytes() == CONTENT
    assert server.asked == [None, None]


def test_goes_on_after_a_connection_that_ended(server: Server, tmp_path: Path) -> None:
    server.ends_after = 1000
    with pytest.raises(zoo.ZooError, match=f"{1000:,} of {LARGE:,} bytes"):
        zoo.weights_file("net")
    server.ends_after = None
    assert zoo.weights_file("net").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-"]


def test_a_server_that_does_not_resume_starts_anew(server: Server, tmp_path: Path) -> None:
    partial(tmp_path, CONTENT[:5000])
    server.resumes = False
    assert zoo.weights_file("net").read_bytes() == CONTENT
    assert server.asked == ["bytes=5000-"]


def test_the_beginning_of_another_version_is_left(server: Server, tmp_path: Path) -> None:
    partial(tmp_path, b"old" * 100)
    assert zoo.weights_file("net").read_bytes() == CONTENT
    assert server.asked == ["bytes=300-", None]


def test_a_longer_beginning_than_the_servers_file_is_left(server: Server, tmp_path: Path) -> None:
    partial(tmp_path, CONTENT[:5000])
    server.content = CONTENT[:1000]
    with pytest.raises(zoo.ZooError, match=f"1,000 of {LARGE:,} bytes"):
        zoo.weights_file("net")
    assert server.asked == ["bytes=5000-", None]


def test_a_whole_file_that_was_not_placed_yet_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    partial(tmp_path, CONTENT)
    assert zoo.weights_file("net").read_bytes() == CONTENT
    assert server.asked == []


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"?", CONTENT + b"more", CONTENT[::-1] * 2])
def test_another_file_than_the_receipts_is_refused(server: Server, tmp_path: Path, content: bytes) -> None:
    server.content = content
    with pytest.raises(zoo.ZooError, match=SHA256):
        zoo.weights_file("net")
    assert [file.suffix for file in cache(tmp_path)] in ([], [".lock"])


def test_two_at_a_time_download_once(server: Server) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(zoo.weights_file, ["net"] * 4))
    assert {path.read_bytes() == CONTENT for path in paths} == {True}
    assert server.asked == [None]


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def acquire(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(FileLock, "acquire", acquire)


def test_two_at_a_time_without_locks(server: Server, no_locks: None, tmp_path: Path) -> None:
    """The first one's file is checked and placed while the second one is in the middle of its own."""
    left, both, placed = partial(tmp_path, CONTENT[:1000]), threading.Barrier(2, timeout=30), threading.Event()
    server.pause = lambda: both.wait() == 0 or placed.wait(30)
    with ThreadPoolExecutor(2) as pool:
        downloads = [pool.submit(zoo.weights_file, "net") for _ in range(2)]
        wait(downloads, return_when=FIRST_COMPLETED)
        placed.set()
    assert {download.result().read_bytes() == CONTENT for download in downloads} == {True}
    assert server.asked == [None, None]  # what another process may be writing is not gone on with
    assert cache(tmp_path) == [left.with_suffix(""), left]


def test_nothing_is_left_of_a_failure_without_locks(server: Server, no_locks: None, tmp_path: Path) -> None:
    server.ends_after = 1000
    with pytest.raises(zoo.ZooError, match=f"{1000:,} of {LARGE:,} bytes"):
        zoo.weights_file("net")
    assert cache(tmp_path) == []


def test_a_user_without_a_home_is_told_so(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", home)
    with pytest.raises(zoo.ZooError, match="XDG_CACHE_HOME"):
        zoo.weights_file("net")
    assert zoo.packed_file("net").is_file()


def test_without_an_address_the_error_says_how_the_recipe_makes_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BNN_ZOO_URL")
    with pytest.raises(zoo.ZooError, match="BNN_ZOO_URL") as error:
        zoo.weights_file("net")
    assert "bnn train model=mlp seed=1" in str(error.value)
    assert f"{LARGE:,} bytes" in str(error.value)


@pytest.mark.parametrize(("address", "reason"), [("ftp://there", "http://"), ("{server}/else", "404")])
def test_a_wrong_address_is_named(server: Server, monkeypatch: pytest.MonkeyPatch, address: str, reason: str) -> None:
    monkeypatch.setenv("BNN_ZOO_URL", address.format(server=f"http://127.0.0.1:{server.server_port}"))
    with pytest.raises(zoo.ZooError, match=reason):
        zoo.weights_file("net")


def test_a_server_that_is_not_there_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNN_ZOO_URL", "http://127.0.0.1:1")
    with pytest.raises(zoo.ZooError, match=r"127\.0\.0\.1:1/net\.safetensors"):
        zoo.weights_file("net")


def test_a_cache_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(zoo.ZooError, match=str(tmp_path / "cache")):
        zoo.weights_file("net")
