"""Headless Chromium, driven over a pipe by its own protocol."""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, final

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
_SECONDS = 120
# The transparency of pictures is read by WebGL, which needs no GPU with these.
_FLAGS = ("--headless", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@final
class Tab:
    """Tab of a browser, with one page.

    Attributes:
        errors: exceptions of the page and requests that it was not allowed to make, as text.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, os.fdopen(answers, "rb", buffering=1 << 16)
        self._number, self._session = 0, ""
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Result of a command of the DevTools protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._note(answer)

    def open(self, url: str) -> None:
        """Open a page."""
        self.call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression in the page, awaited if it is a promise."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Value of an expression as soon as it is true."""
        end = time.monotonic() + _SECONDS
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, (expression, self.errors, self.evaluate("document.body.innerText"))
            time.sleep(0.05)
        return value

    def choose(self, selector: str, files: list[Path]) -> None:
        """Choose files in the file dialog of an input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def _read(self) -> dict[str, Any]:
        content = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "the browser has ended"
            content += byte
        return json.loads(content)

    def _note(self, event: dict[str, Any]) -> None:
        if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.errors.append(json.dumps(event["params"])[:1000])


@contextlib.contextmanager
def chromium(profile: Path, *flags: str, camera: bool = False) -> Iterator[Callable[[], Tab]]:
    """Start Chromium, and give a function that opens its tab; the browser ends with the context."""
    assert CHROMIUM is not None
    (read, commands), (answers, write) = os.pipe(), os.pipe()
    # Numbers above 4, which the browser's own ends get.
    read, write = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (read, write))

    def connect() -> None:
        os.dup2(read, 3)
        os.dup2(write, 4)

    given = (*_FLAGS, *(_CAMERA if camera else ()), f"--user-data-dir={profile}", "--remote-debugging-pipe", *flags)
    process = subprocess.Popen(
        [CHROMIUM, *given], pass_fds=(3, 4), preexec_fn=connect, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield lambda: Tab(commands, answers)
    finally:
        process.terminate()
        process.wait(30)
