"""What `logitd tune` draws and records, as a browser shows it: the page of its report, and its study in optuna-dashboard.

With PICTURES=FOLDER the pictures of README.md are made again: in docs/pictures.
"""

import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import unittest

from browser import Browser

TIMEOUT_S = 300
PICTURE_BYTES_MAX = 100_000
SETS = 300


def tune(folder: str, *flags: str) -> str:
    """What `logitd tune` prints over the positions that the program carries."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LOGITD_", "RUST_"))}
    done = subprocess.run([os.environ["LOGITD"], "tune", *flags], cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class PagesTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="logitd-pages-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.pictures = pathlib.Path(os.environ.get("PICTURES") or self.folder)
        self.pictures.mkdir(parents=True, exist_ok=True)

    def picture(self, browser: Browser, name: str, selector: str | None = None) -> None:
        path = self.pictures / name
        browser.picture(path, selector, margin=10)
        size = path.stat().st_size
        print(f"{name}: {size} bytes")
        self.assertTrue(5_000 < size < PICTURE_BYTES_MAX, f"{path} has {size} bytes")

    def test_the_report_has_all_its_marks_and_asks_for_nothing(self) -> None:
        said = tune(str(self.folder), "--compare=llama.cpp", "--compare=hf", "--folds=3", "--pareto=nll,tail")
        page = (self.folder / "study.html").as_uri()
        with Browser(width=800) as browser:
            browser.open(page)
            self.assertEqual((browser.requests(), browser.complaints()), ([page], []))
            count = {name: browser.evaluate(f"document.querySelectorAll('{name}').length")
                     for name in ("svg", "circle.pick", "path.front", "table.heat", "td.best", "script")}
            self.assertEqual({name: count[name] for name in ("svg", "circle.pick", "path.front", "table.heat", "script")},
                             {"svg": 1, "circle.pick": 4, "path.front": 1, "table.heat": 4, "script": 0})
            self.assertGreaterEqual(count["td.best"], 4)
            dots = browser.evaluate("document.querySelector('.specks').getAttribute('d').split('M').length - 1")
            self.assertGreater(dots, 1000)
            # Every mark and name is seen: within the drawing, and no name over another.
            boxes = "[...document.querySelectorAll('{}')].map(e => e.getBoundingClientRect()).map(r => [r.left, r.top, r.right, r.bottom])"
            [[left, top, right, bottom]] = browser.evaluate(boxes.format("svg"))
            names = browser.evaluate(boxes.format(".said"))
            for x0, y0, x1, y1 in [*names, *browser.evaluate(boxes.format(".pick, .front, .specks"))]:
                self.assertTrue(left - 1 <= x0 < x1 <= right + 1 and top - 1 <= y0 < y1 <= bottom + 1, (x0, y0, x1, y1))
            for i, a in enumerate(names):
                for b in names[:i]:
                    apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] + 4 or b[3] <= a[1] + 4
                    self.assertTrue(apart, f"two names stand over each other: {a}, {b}")
            # What the terminal said of the best is in the page.
            best = next(line for line in said.splitlines() if line.startswith("best ")).split()
            shown = browser.evaluate("document.querySelector('table tbody tr').innerText").split()
            self.assertEqual(shown, best)
            for title in ("Chosen without a part of the rows", "The front", "Along top_k", "How much each parameter matters"):
                self.assertIn(title, browser.evaluate("document.body.innerText"))
            self.assertLessEqual(browser.evaluate("document.documentElement.scrollWidth"), 800)
            self.picture(browser, "tune.png", "section:has(svg)")
            light = browser.evaluate("getComputedStyle(document.body).backgroundColor")
            browser.open(page, dark=True)
            self.assertNotEqual(browser.evaluate("getComputedStyle(document.body).backgroundColor"), light)

    def test_optuna_dashboard_shows_the_study(self) -> None:
        tune(str(self.folder), "--search=sobol", f"--sets={SETS}", "--seed=5")
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        program = pathlib.Path(sys.executable).with_name("optuna-dashboard")
        command = [str(program), str(self.folder / "study.journal"), "--host=127.0.0.1", f"--port={port}"]
        with open(self.folder / "dashboard.log", "w", encoding="utf-8") as log:
            dashboard = subprocess.Popen(command, stdout=log, stderr=log)
        self.addCleanup(lambda: (dashboard.kill(), dashboard.wait()))
        with Browser(width=1200) as browser:
            self.open_when_up(browser, dashboard, port)
            browser.wait("document.body.innerText.includes('least nll with tail <= 0.001')")
            browser.open(f"http://127.0.0.1:{port}/dashboard/studies/0")
            # Of every plot how many marks it has: each trial in the history.
            marks = "[...document.querySelectorAll('.js-plotly-plot')].map(p => p.querySelectorAll('.point, path.point').length)"
            browser.wait(f"{marks}.filter(n => n == {SETS}).length >= 2")
            browser.wait("document.body.innerText.includes('Hyperparameter Importance')")
            said = browser.evaluate("document.body.innerText")
            self.assertRegex(said, re.escape("least nll with tail <= 0.001 ["))
            for name in ("temperature", "top_k", "top_p", "min_p", "logitd_version", "Infeasible"):
                self.assertIn(name, said)
            self.assertEqual(browser.complaints(), [])
            self.assertTrue(all(url.startswith((f"http://127.0.0.1:{port}/", "data:")) for url in browser.requests()), browser.requests())
            self.picture(browser, "dashboard.png")

    def open_when_up(self, browser: Browser, dashboard: subprocess.Popen, port: int) -> None:
        """Opens the pages of a server that was just started, once it listens."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            ended = dashboard.poll() is not None or time.monotonic() > deadline
            self.assertFalse(ended, (self.folder / "dashboard.log").read_text(encoding="utf-8"))
            time.sleep(0.1)
        browser.open(f"http://127.0.0.1:{port}/dashboard")


if __name__ == "__main__":
    unittest.main()
