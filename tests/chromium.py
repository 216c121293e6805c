"""Drives a headless Chromium through the pipe of its DevTools protocol, without a package."""

from __future__ import annotations

import base64
import json
import os
import select
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class PageError(Exception):
    """A script failed, or a condition did not become true in time."""


class Browser:
    """One tab. `messages` has errors and warnings of the console; `requests` has the URLs asked."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = to, back
        self._rest = b""
        self._number = 0
        self.messages: list[str] = []
        self.requests: list[str] = []
        self._target = self._session = ""
        self.size(1440, 900)

    def call(self, method: str, **parameters: Any) -> Any:
        """The result of a method of the protocol on the tab."""
        return self._call(method, self._session, **parameters)

    def open(self, url: str, ready: str = "document.documentElement.dataset.ready") -> float:
        """Load a page in a new tab; return the seconds until the expression `ready` is true."""
        if self._target:
            self._call("Target.closeTarget", targetId=self._target)
        self._target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=self._target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self._emulate()
        self.messages.clear()
        self.requests.clear()
        started = time.monotonic()
        self.call("Page.navigate", url=url)
        self.wait(ready)
        return time.monotonic() - started

    def run(self, script: str) -> Any:
        """The value of an expression, which may be a promise; it must be JSON."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise PageError(json.dumps(answer["exceptionDetails"])[:2000])
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        # While a page loads, its parts are not there yet.
        tried = f"(() => {{ try {{ return Boolean({condition}); }} catch {{ return false; }} }})()"
        while not self.run(tried):
            if self.messages or time.monotonic() > end:
                raise PageError(f"not true in {seconds:g} s: {condition}; {self.messages}")
            time.sleep(0.02)

    def size(self, width: int, height: int, *, dark: bool = False) -> None:
        """Set the size and the colours of the screen, for this page and for later ones."""
        self._screen = width, height, "dark" if dark else "light"
        if self._session:
            self._emulate()

    def _emulate(self) -> None:
        width, height, scheme = self._screen
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def mouse(self, kind: str, x: float, y: float) -> None:
        """`mouseMoved`, `mousePressed` or `mouseReleased`."""
        button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def click(self, x: float, y: float) -> None:
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.mouse(kind, x, y)

    def key(self, name: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=name,
                code=name,
                windowsVirtualKeyCode=code,
                **({"text": text} if text and kind == "keyDown" else {}),
            )

    def picture(self, path: Path, *, whole: bool = False) -> None:
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def pdf(self) -> bytes:
        printed = self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)
        return base64.b64decode(printed["data"])

    def _call(self, method: str, session: str = "", **parameters: Any) -> Any:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            said = self._next()
            if said.get("id") == number:
                if "error" in said:
                    raise PageError(f"{method}: {said['error']}")
                return said["result"]
            self._note(said)

    def _next(self) -> Any:
        while b"\0" not in self._rest:
            if not select.select([self._back], [], [], 60)[0]:
                raise PageError("Chromium said nothing for 60 s")
            if not (read := os.read(self._back, 1 << 20)):
                raise PageError("Chromium ended")
            self._rest += read
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, said: Any) -> None:
        values = said.get("params", {})
        match said.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(values["request"]["url"])
            case "Runtime.exceptionThrown":
                details = values["exceptionDetails"]
                self.messages.append(details.get("exception", details).get("description", ""))
            case "Runtime.consoleAPICalled" if values["type"] in ("error", "warning", "assert"):
                self.messages.append(json.dumps(values["args"])[:500])
            case "Log.entryAdded" if values["entry"]["level"] == "error":
                self.messages.append(values["entry"]["text"])


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with its profile in a folder; PROGRAM must exist."""
    assert PROGRAM
    back, there_write = os.pipe()
    there_read, to = os.pipe()
    # Chromium reads from descriptor 3 and writes to 4; the shell gives it the ends of the pipes.
    command = shlex.join([PROGRAM, *OPTIONS, f"--user-data-dir={profile}", "about:blank"])
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command} 3<&{there_read} 4>&{there_write}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(there_read, there_write),
    )
    os.close(there_read)
    os.close(there_write)
    try:
        yield Browser(to, back)
    finally:
        process.terminate()
        process.wait(20)
        os.close(to)
        os.close(back)
