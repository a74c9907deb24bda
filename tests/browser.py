"""A real browser that is told what to do: pages opened, keys pressed, elements asked for, files saved; no package is needed."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
# Chromium takes commands on descriptor 3 and answers on 4.
STARTER = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
KEYS = {"ArrowDown": 40, "ArrowUp": 38, "ArrowRight": 39, "ArrowLeft": 37, "Enter": 13, "Escape": 27, "Tab": 9}


class Browser:
    """One tab. ``errors`` are all that a page complained of: exceptions, refused scripts, refused loads."""

    def __init__(self, profile: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        self.errors: list[str] = []
        self._rest, self._number = b"", 0
        self._keeps: str | None = None
        theirs, self._to = _far(os.pipe())
        self._from, answers = _far(os.pipe())
        command = [
            *[BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"],
            *[
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--remote-debugging-pipe",
            ],
            *[f"--user-data-dir={profile}", "about:blank"],
        ]
        start = [sys.executable, "-c", STARTER, str(theirs), str(answers), *command]
        with open(os.devnull, "wb") as nowhere:
            self._process = subprocess.Popen(start, pass_fds=(theirs, answers), stdout=nowhere, stderr=nowhere)
        os.close(theirs)
        os.close(answers)
        self._session = None
        targets = self.do("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.do("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for name in ("Page", "Runtime", "Log", "DOM"):
            self.do(f"{name}.enable")
        self.look(width, height, dark)

    def look(self, width: int, height: int, dark: bool) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.do("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.do("Emulation.setEmulatedMedia", features=[scheme])

    def do(self, method: str, **options):
        """One command of the DevTools protocol; its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": options}
        if self._session is not None and not method.startswith(("Target", "Browser")):
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            self._hear(answer)
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _read(self):
        deadline = time.monotonic() + 120
        while b"\0" not in self._rest:
            assert select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))[0], "no answer in time"
            read = os.read(self._from, 1 << 20)
            assert read, "the browser has ended"
            self._rest += read
        first, _, self._rest = self._rest.partition(b"\0")
        return json.loads(first)

    def _hear(self, answer) -> None:
        told = answer.get("params", {})
        if answer.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(told["exceptionDetails"]))
        elif answer.get("method") == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.errors.append(told["entry"]["text"])

    def open(self, path: Path) -> None:
        self.ask("window.before = true")
        self.do("Page.navigate", url=path.as_uri())
        self.until("!window.before && document.readyState === 'complete'")

    def keep(self, kept: dict[str, str] | None = None) -> None:
        """What the store of the pages that are opened from now on holds before their own scripts run.

        What one page stored, Chromium may give to the next too late or, in three of six runs of CI, not at all:
        whether a page writes the store, and whether it reads it, are two tests.
        """
        if self._keeps is not None:
            self.do("Page.removeScriptToEvaluateOnNewDocument", identifier=self._keeps)
        fill = f"localStorage.clear(); Object.assign(localStorage, {json.dumps(kept or {})});"
        source = f"if (location.protocol === 'file:') {{ {fill} }}"
        self._keeps = self.do("Page.addScriptToEvaluateOnNewDocument", source=source)["identifier"]

    def kept(self) -> dict[str, str]:
        """The store of the page."""
        return self.ask("({...localStorage})")

    def ask(self, expression: str):
        """The value of an expression of JavaScript on the page; promises are waited for."""
        found = self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression: str) -> None:
        deadline = time.monotonic() + 60
        while not self.ask(expression):
            assert time.monotonic() < deadline, expression
            time.sleep(0.02)

    def press(self, *keys: str) -> None:
        for key in keys:
            code = KEYS.get(key) or ord(key.upper())
            text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
            event = {"key": key, "windowsVirtualKeyCode": code}
            self.do("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **event, **text)
            self.do("Input.dispatchKeyEvent", type="keyUp", **event)

    def choose(self, selector: str, path: Path) -> None:
        """Give a file to an input."""
        root = self.do("DOM.getDocument")["root"]["nodeId"]
        node = self.do("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.do("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def downloads(self, folder: Path) -> None:
        self.do("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def picture(self, path: Path, whole: bool = False) -> None:
        shot = self.do("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        with contextlib.suppress(AssertionError, OSError):
            self.do("Browser.close")
        for end in (self._to, self._from):
            with contextlib.suppress(OSError):
                os.close(end)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _far(ends: tuple[int, int]) -> tuple[int, int]:
    """Both ends of a pipe under numbers that are not those which the browser wants."""
    found = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in ends)
    for end in ends:
        os.close(end)
    return found
