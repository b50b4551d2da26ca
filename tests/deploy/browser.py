"""A headless Chromium, driven through a pipe by its DevTools protocol."""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


class Browser:
    """One page of a browser."""

    def __init__(self, commands: Any, answers: Any) -> None:
        self.commands, self.answers, self.last, self.session = commands, answers, 0, ""
        self.requests: list[str] = []
        self.errors: list[str] = []
        (page,) = (one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Network", "Page", "Runtime", "DOM", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self.last += 1
        command: dict[str, Any] = {"id": self.last, "method": method, "params": parameters}
        if self.session:
            command["sessionId"] = self.session
        self.commands.write(json.dumps(command).encode() + b"\0")
        self.commands.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self.last:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self.answers.read(1)) != b"\0":
            assert byte, "the browser ended"
            text += byte
        answer: dict[str, Any] = json.loads(text)
        parameters = answer.get("params", {})
        if answer.get("method") == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif answer.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(parameters["exceptionDetails"]))
        elif answer.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(str(parameters["entry"]))
        return answer

    def value(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript; promises are waited for."""
        done = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def open(self, address: str, until: str) -> None:
        """Open an address, and wait until an expression holds."""
        self.call("Page.navigate", url=address)
        self.wait(until)

    def wait(self, until: str) -> None:
        """Wait until an expression holds, for ten seconds at most."""
        done = f"try {{ if ({until}) return resolve(true); }} catch {{}}"
        late = "if (performance.now() > end) return resolve(false);"
        assert self.value(
            "new Promise((resolve) => { const end = performance.now() + 10000; "
            f"(function look() {{ {done} {late} setTimeout(look, 5); }})(); }})"
        ), f"not within ten seconds: {until}"

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file in an input of the page."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start a browser with one empty page.

    Args:
        profile: Folder for what it writes.
    """
    assert CHROMIUM is not None
    (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
    # Its two pipes are the descriptors 3 and 4; a shell puts them there.
    words = [CHROMIUM, *_OPTIONS, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
    shell = ["bash", "-c", f'exec "$@" 3<&{their_in} 4>&{their_out}', "bash", *words]
    with (profile / "log").open("wb") as log:
        process = subprocess.Popen(shell, pass_fds=(their_in, their_out), stdout=log, stderr=log)
    os.close(their_in), os.close(their_out)
    try:
        with os.fdopen(our_out, "wb") as commands, os.fdopen(our_in, "rb") as answers:
            page = Browser(commands, answers)
            yield page
            page.session = ""
            page.call("Browser.close")
    finally:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the files of a folder; yield the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
