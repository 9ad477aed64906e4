"""A page in headless Chromium, spoken to over a pair of pipes: what it has, what it says, what it asks the network for."""

import base64
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import tempfile
import time

TIMEOUT_S = 60
NAMES = ("chromium", "chromium-browser", "google-chrome")


class Browser:
    """One page. Used as a context."""

    def __init__(self, width: int = 1100, height: int = 900) -> None:
        # CI says which one works, in the variable that Karma uses too. LOGITD_ is the prefix of the server's own variables,
        # which refuses those that it does not know.
        program = os.environ.get("CHROME_BIN") or next((found for name in NAMES if (found := shutil.which(name))), None)
        if program is None:
            raise RuntimeError(f"none of {', '.join(NAMES)} is here: apt-get install chromium")
        self._folder = tempfile.TemporaryDirectory(prefix="logitd-chromium-", ignore_cleanup_errors=True)
        # No sandbox, no /dev/shm: in containers there is neither.
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
                 "--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={self._folder.name}",
                 f"--window-size={width},{height}", "about:blank"]
        asked, self._asks = os.pipe()
        self._answers, answered = os.pipe()
        # It reads descriptor 3 and writes descriptor 4.
        command = f"exec {shlex.join([program, *flags])} 3<&{asked} 4>&{answered}"
        self._process = subprocess.Popen(["bash", "-c", command], pass_fds=(asked, answered), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(asked)
        os.close(answered)
        os.set_blocking(self._answers, False)
        self._buffer, self._number, self._events = b"", 0, []
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._asks)
        os.close(self._answers)
        self._folder.cleanup()

    def call(self, method: str, **params: object) -> dict:
        """What a method of the DevTools protocol answers."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._asks, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            found = self._next(deadline)
            if found.get("id") == self._number:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']['message']}")
                return found["result"]
            self._events.append(found)

    def _next(self, deadline: float) -> dict:
        while b"\0" not in self._buffer:
            if time.monotonic() > deadline:
                raise RuntimeError("Chromium does not answer")
            try:
                read = os.read(self._answers, 1 << 20)
            except BlockingIOError:
                time.sleep(0.01)
                continue
            if not read:
                raise RuntimeError(f"Chromium ended with {self._process.wait()}")
            self._buffer += read
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def open(self, url: str, dark: bool = False) -> None:
        """Opens a page and waits until it is loaded."""
        self._events.clear()
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)
        self.wait("document.readyState == 'complete' && location.href != 'about:blank'")

    def evaluate(self, script: str) -> object:
        """What a script comes to in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait(self, script: str, timeout_s: float = TIMEOUT_S) -> None:
        """Waits until a script comes to what is true."""
        deadline = time.monotonic() + timeout_s
        while not self.evaluate(script):
            if time.monotonic() > deadline:
                raise RuntimeError(f"it did not come to be so: {script}; the page says: {self.evaluate('document.body.innerText')!r:.500}")
            time.sleep(0.05)

    def requests(self) -> list[str]:
        """Every address that the page asked for."""
        return [event["params"]["request"]["url"] for event in self._events if event["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[str]:
        """Errors and warnings: exceptions, what is written to the console, what the browser says of the page."""
        found = []
        for event in self._events:
            params = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(json.dumps(params["exceptionDetails"]))
            elif event["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                found.append(json.dumps(params["args"]))
            elif event["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(json.dumps(params["entry"]))
        return found

    def picture(self, path: pathlib.Path, selector: str | None = None, margin: int = 0) -> None:
        """What is seen of the page, or of one element, as a PNG file."""
        clip = {}
        if selector is not None:
            script = f"(r => [r.x + scrollX, r.y + scrollY, r.width, r.height])(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
            x, y, width, height = self.evaluate(script)
            clip = {"clip": {"x": x - margin, "y": y - margin, "width": width + 2 * margin, "height": height + 2 * margin, "scale": 1}}
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=selector is not None, **clip)
        path.write_bytes(base64.b64decode(found["data"]))
