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
from typing import Any, BinaryIO, final

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
_SECONDS = 120
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)  # fmt: skip


@final
class Tab:
    """Tab of a browser, with one page.

    Attributes:
        errors: exceptions and errors of the page, as text.
        requests: addresses that the page has asked for, without those of its own memory.
    """

    def __init__(self, commands: int, answers: BinaryIO) -> None:
        self._commands, self._answers = commands, answers
        self._number, self._session = 0, ""
        self.errors: list[str] = []
        self.requests: list[str] = []
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
        return self.wait_for(lambda: self.evaluate(expression), expression)

    def wait_for(self, condition: Callable[[], Any], name: str = "condition") -> Any:
        """Value of a condition as soon as it is true."""
        end = time.monotonic() + _SECONDS
        while not (value := condition()):
            assert time.monotonic() < end, (name, self.errors, self.evaluate("document.body.innerText"))
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
        if event["method"] == "Network.requestWillBeSent" and not event["params"]["request"]["url"].startswith("blob:"):
            self.requests.append(event["params"]["request"]["url"])


@contextlib.contextmanager
def chromium(profile: Path, *flags: str) -> Iterator[Tab]:
    """Tab of a headless Chromium that ends with the context, with a camera that shows a test picture.

    Args:
        profile: folder for the files of the browser.
        *flags: further flags of the command line.
    """
    assert CHROMIUM is not None
    # The browser takes commands at descriptor 3 and answers at 4; all ends made here have higher numbers.
    pipes = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for pair in (os.pipe(), os.pipe()) for end in _closing(pair)]
    commands_read, commands, answers, answers_write = pipes

    def connect() -> None:
        os.dup2(commands_read, 3)
        os.dup2(answers_write, 4)

    given = (*_FLAGS, f"--user-data-dir={profile}", *flags)
    with contextlib.ExitStack() as stack:
        for end in (commands_read, commands, answers_write):
            stack.callback(os.close, end)
        received = stack.enter_context(os.fdopen(answers, "rb"))
        process = subprocess.Popen(
            [CHROMIUM, *given], pass_fds=(3, 4), preexec_fn=connect, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        stack.callback(process.wait, 30)
        stack.callback(process.terminate)
        yield Tab(commands, received)


def _closing(ends: tuple[int, int]) -> Iterator[int]:
    for end in ends:
        yield end
        os.close(end)
