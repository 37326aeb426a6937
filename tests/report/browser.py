"""A headless Chromium over its own pipe: what a page looks like, how wide it is, and what it complained of."""

import base64
import contextlib
import json
import os
import shutil
import subprocess

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """Use as a context manager. Since a page was opened: `complaints` are the errors of the console, of scripts and of requests,
    `asked` the addresses of all requests."""

    def __init__(self, profile):
        self.complaints, self.asked, self.number = [], [], 0
        ours, theirs = os.pipe(), os.pipe()  # the browser reads its file 3 and writes its file 4

        def place():
            a, b = os.dup(ours[0]), os.dup(theirs[1])
            os.dup2(a, 3)
            os.dup2(b, 4)
            os.set_inheritable(3, True)  # where a was 3 and b 4, dup2 did nothing
            os.set_inheritable(4, True)

        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        words += ["--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage", "about:blank"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([CHROMIUM, *words], preexec_fn=place, close_fds=False, **quiet)
        os.close(ours[0])
        os.close(theirs[1])
        self.out, self.back = os.fdopen(ours[1], "wb", buffering=0), os.fdopen(theirs[0], "rb")
        self.session = None
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for room in ("Page", "Runtime", "Log", "Network"):
            self(f"{room}.enable")

    def __call__(self, method, until=None, **params):
        """The answer to a command; with `until`, the event of that name that follows it."""
        self.number += 1
        command = {"id": self.number, "method": method, "params": params}
        self.out.write(json.dumps(command | ({"sessionId": self.session} if self.session else {})).encode() + b"\0")
        answer = None
        while True:
            said = self._next()
            if said.get("id") == self.number:
                assert "error" not in said, said
                answer = said["result"]
                if until is None:
                    return answer
            elif answer is not None and said.get("method") == until:
                return said["params"]

    def _next(self):
        data = bytearray()
        while (c := self.back.read(1)) != b"\0":
            assert c, "the browser is gone"
            data += c
        said = json.loads(data)
        name, p = said.get("method"), said.get("params", {})
        if name == "Runtime.exceptionThrown" or (name == "Runtime.consoleAPICalled" and p["type"] == "error"):
            self.complaints.append(json.dumps(p)[:500])
        if name == "Network.requestWillBeSent":
            self.asked.append(p["request"]["url"])
        if (name == "Log.entryAdded" and p["entry"]["level"] == "error") or name == "Network.loadingFailed":
            self.complaints.append(json.dumps(p)[:500])
        return said

    def open(self, url, width, dark=False):
        self.complaints.clear()
        self.asked.clear()
        self("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self("Page.navigate", until="Page.loadEventFired", url=url)

    def value(self, expression):
        result = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def picture(self, file):
        """The whole page as a PNG."""
        height = self.value("document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": self.value("innerWidth"), "height": height, "scale": 1}
        shot = self("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(BrokenPipeError):
            self.session = None
            self.out.write(b'{"id": 0, "method": "Browser.close"}\0')
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.out.close()
        self.back.close()
