"""The page of --admin-listen in a browser: every slider against `logitd sample`, draws, uploads, copies, a drain; nothing for axe-core to find.

With PICTURES=FOLDER the picture of README.md is made again: in docs/pictures.
"""

import collections
import contextlib
import http.client
import json
import math
import os
import pathlib
import signal
import socket
import struct
import subprocess
import tempfile
import unittest
import urllib.error
import urllib.request

import trustme
from browser import Browser
from daemon import Daemon

TIMEOUT_S = 60
PAGE_BYTES_MAX = 150_000
PICTURE_BYTES_MAX = 150_000
VOCAB_SIZE = 262_144
# Where the tests begin: one draw, since two controls allow no more.
BEGIN = "#row=3&temperature=0.8&seed=11&draws=1"
FILES = ("/", "/live", "/common.js", "/play.js", "/live.js", "/style.css", "/icon.svg")


def npy(descr: str, shape: str, data: bytes) -> bytes:
    """An array as numpy saves it."""
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    head = head.ljust(-(-(10 + len(head) + 1) // 64) * 64 - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + data


def fetch(address: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
    request = urllib.request.Request(address, data=data, headers=headers or {})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        return response.read()


def sample(folder: pathlib.Path, rows: bytes, lines: list[str]) -> list[dict]:
    """What `logitd sample` says of rows of the carried vocabulary, each with its line of parameters."""
    (folder / "rows.raw").write_bytes(rows)
    (folder / "params.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LOGITD_", "RUST_"))}
    command = [os.environ["LOGITD"], "sample", "--logits=rows.raw", "--dtype=f16", f"--vocab-size={VOCAB_SIZE}", "--params=params.jsonl", "--json"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


class Page:
    """The playground in a browser."""

    def __init__(self, browser: Browser, address: str, settings: str = BEGIN, dark: bool = False) -> None:
        self.browser, self.address = browser, address
        # From elsewhere: another fragment alone would not load the page anew.
        browser.open(f"{address}/healthz")
        browser.open(f"{address}/{settings}", dark=dark)
        browser.wait("location.pathname == '/' && document.readyState == 'complete'")
        browser.wait("document.body.dataset.seen >= 1")

    def does(self, script: str) -> None:
        """Does something, and waits until the server has answered it."""
        before = self.browser.evaluate("Number(document.body.dataset.seen)")
        self.browser.evaluate(script)
        self.browser.wait(f"Number(document.body.dataset.seen) > {before} && !busy")

    def text(self, selector: str) -> str:
        return self.browser.evaluate(f"document.querySelector({json.dumps(selector)}).textContent")

    def kept(self) -> tuple[int, list[tuple[int, float]]]:
        """The number of kept tokens, and the first of them with the shares that the page shows, in percent."""
        kept = int(self.text("#tiles .tile b").replace(",", ""))
        script = "[...document.querySelectorAll('#tokens li.kept')].map(li => [Number(li.dataset.token), parseFloat(li.querySelector('.share').textContent)])"
        return kept, [(token, share) for token, share in self.browser.evaluate(script)]

    def copy(self, name: str) -> str:
        self.browser.evaluate(f"$('tab-{name}').click()")
        return self.text("#snippet")


class PlayTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="logitd-play-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def daemon(self, *flags: str) -> Daemon:
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        return stack.enter_context(Daemon(*(flags or ("--admin-listen=127.0.0.1:0",))))

    def refused(self, code: int, address: str, data: bytes | None = None, **headers: str) -> str:
        with self.assertRaises(urllib.error.HTTPError) as refused:
            fetch(address, data, headers)
        self.assertEqual(refused.exception.code, code)
        return refused.exception.read().decode()

    def test_every_slider_shows_what_is_sampled(self) -> None:
        address = self.daemon().page
        row = fetch(f"{address}/api/row.npy?row=3")[-2 * VOCAB_SIZE:]
        lines, shown = [], []
        with Browser(width=1200) as browser:
            page = Page(browser, address)
            names = browser.evaluate("about.controls.filter(one => one.stops.length).map(one => one.name)")
            self.assertGreaterEqual(len(names), 20)
            for i, name in enumerate(names):
                # A stop that is not the default, another one for each.
                move = (f"(s => {{ s.value = 1 + Math.round((s.max - 2) * {0.3 + 0.4 * (i % 5) / 4}); s.dispatchEvent(new Event('input')); }})"
                        f"($('c-{name}-slider'))")
                page.does(move)
                self.assertEqual(page.text("#error"), "", name)
                self.assertIn(f'"{name}":', page.copy("jsonl"))
                lines.append(page.copy("jsonl"))
                shown.append(page.kept())
                page.does(f"put('{name}', '')")
            for line in ('{"temperature":0,"seed":1}', '{"top_k":7,"top_p":0.9,"min_p":0.02,"typical_p":0.95,"seed":5}'):
                settings = "&".join(f"{key}={value}" for key, value in json.loads(line).items())
                Page(browser, address, f"#row=3&draws=1&{settings}")
                lines.append(line)
                shown.append(page.kept())
            # The settings are in the address, and what is wrong with a number is said.
            page = Page(browser, address, "#row=3&top_p=0.5&draws=1")
            self.assertEqual(browser.evaluate("$('c-top_p').value"), "0.5")
            page.does("put('top_p', '2')")
            self.assertIn("top_p is 2; allowed: above 0, up to 1", page.text("#error"))
            own = f"{address}/"
            self.assertTrue(all(url.startswith((own, "data:")) for url in browser.requests()), browser.requests())
        asked = [line[:-1] + ',"logprobs":{"of":["sampled"],"top":24}}' for line in lines]
        for line, (kept, tokens), answer in zip(lines, shown, sample(self.folder, row * len(lines), asked), strict=True):
            self.assertEqual(kept, answer["kept"], line)
            top = answer["logprobs"][0]["top"]
            self.assertGreater(len(tokens), 0, line)
            if kept <= 24:
                self.assertLessEqual(set(token for token, _ in tokens), set(one["token"] for one in top), line)
            shares = {one["token"]: 100 * math.exp(one["logprob"]) for one in top}
            for token, share in tokens[:8]:
                self.assertAlmostEqual(share, shares[token], delta=0.06 if share > 9 else 0.006, msg=line)

    def test_the_same_seed_draws_the_same_and_copies_run(self) -> None:
        daemon = self.daemon()
        row = fetch(f"{daemon.page}/api/row.npy?row=0")[-2 * VOCAB_SIZE:]
        with Browser(width=1080, height=940) as browser:
            page = Page(browser, daemon.page, "#row=0&temperature=0.8&top_k=40&top_p=0.9&seed=7&draws=1000")
            self.assertEqual(browser.complaints(), [])
            said = page.text("#drawn-say")
            self.assertRegex(said, r"1,000 draws with seed 7, \d+ different tokens")
            self.assertRegex(said, r"times in 100\. The counts are those of the distribution")
            counts = browser.evaluate("[...document.querySelectorAll('#drawn li')].map(li => [li.querySelector('.word').title, li.querySelector('.share').textContent])")
            page.does("$('again').click()")
            self.assertIn("The same seed again: the same tokens, every one", page.text("#drawn-say"))
            drawn = collections.Counter(answer["token"] for answer in sample(self.folder, row, [page.copy("jsonl")]))
            for title, count in counts:
                self.assertEqual(int(count.replace(",", "")), drawn[int(title.removeprefix("token "))], title)
            self.picture(browser, "play.png")
            page.does("$('fresh').click()")
            self.assertNotIn("seed 7,", page.text("#drawn-say"))
            page.does("put('seed', '7'); put('draws', '1')")
            token = page.text("#in-order .chip")
            path = self.folder / "bin"
            path.mkdir()
            (path / "logitd").symlink_to(os.environ["LOGITD"])
            environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}
            environment = {k: v for k, v in environment.items() if not k.startswith(("LOGITD_", "RUST_"))}

            def run(command: str) -> str:
                done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
                self.assertEqual(done.returncode, 0, done.stderr)
                return done.stdout

            called = json.loads(run(page.copy("grpc")))["rows"][0]
            texts = json.loads(fetch(f"{daemon.page}/api/look?row=0", b'{"temperature":0.8,"top_k":40,"top_p":0.9,"seed":7}'))
            one = texts["draws"]["tokens"][0]
            self.assertEqual(called["token"], one["token"])
            self.assertEqual(called["kept"], texts["kept"])
            self.assertEqual(token, one["text"].replace(" ", "␣"))
            self.assertIn(f" {one['token']} ", run(page.copy("command")).splitlines()[-1])
            self.assertIn("temperature=0.8, top_k=40, top_p=0.9, seed=7", page.copy("python"))
            compile(page.copy("python"), "copied", "exec")

    def test_a_copied_call_speaks_tls_with_a_certificate_of_ones_own(self) -> None:
        authority = trustme.CA()
        certificate = authority.issue_cert("sampler.example")
        for name, pem in (("ca", authority.cert_pem), ("cert", certificate.cert_chain_pems[0]), ("key", certificate.private_key_pem)):
            pem.write_to_path(self.folder / f"{name}.pem")
        daemon = self.daemon("--admin-listen=127.0.0.1:0", f"--tls-cert={self.folder / 'cert.pem'}", f"--tls-key={self.folder / 'key.pem'}")
        self.assertTrue(daemon.addresses[0].startswith("https://"), daemon.addresses)
        copied = json.loads(fetch(f"{daemon.page}/api/copy?row=3", b'{"seed":7}'))["grpc"]
        environment = {**os.environ, "CA": str(self.folder / "ca.pem"), "NAME": "sampler.example"}
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", copied], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["rows"][0]["seed"], "7")

    def test_files_are_taken_and_wrong_ones_are_named(self) -> None:
        address = self.daemon("--admin-listen=127.0.0.1:0", "--admin-upload-bytes-max=100000").page
        logits = struct.pack("<128f", *(i % 64 / 16 for i in range(128)))
        files = {"wrong.npy": b"PK\x03\x04 no array", "ints.npy": npy("<i8", "(2, 2)", bytes(32)), "large.npy": bytes(100_001),
                 "words.npy": npy("<u2", "(1, 4)", bytes(8)), "right.npy": npy("<f4", "(2, 64)", logits)}
        with Browser() as browser:
            page = Page(browser, address)
            for (name, data), part in zip(files.items(), ["not a .npy file", "holds <i8", "100,001 bytes; allowed: 100,000", "--dtype bf16", ""], strict=True):
                (self.folder / name).write_bytes(data)
                element = browser.call("Runtime.evaluate", expression="$('file')")["result"]["objectId"]
                browser.evaluate("$('upload-error').textContent = '…'")
                browser.call("DOM.setFileInputFiles", files=[str(self.folder / name)], objectId=element)
                browser.wait("$('upload-error').textContent != '…'")
                browser.wait(f"$('upload-error').textContent.includes({json.dumps(part)})")
            browser.wait("$('row-about').textContent == '64 tokens, f32' && !busy")
            self.assertEqual(page.kept()[0], 64)
            self.assertEqual(browser.evaluate("document.querySelectorAll('#rows button').length"), 10)
            # A link to a file that is gone says so.
            Page(browser, address, "#row=0123456789abcdef.0")
            self.assertIn("is not kept any more; upload it again", page.text("#error"))
        self.assertIn("--admin-upload-bytes-max", self.refused(413, f"{address}/api/upload", bytes(100_001)))

    def test_the_page_says_that_the_server_leaves_and_goes_on_when_it_is_back(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        flags = (f"--admin-listen=127.0.0.1:{port}", "--drain-delay=3s")
        with Browser() as browser:
            with Daemon(*flags) as daemon:
                page = Page(browser, daemon.page)
                browser.wait("$('state').textContent == 'serving'")
                daemon.process.send_signal(signal.SIGTERM)
                browser.wait("$('state').textContent.startsWith('The server is leaving')")
                daemon.process.wait(TIMEOUT_S)
            browser.wait("$('state').textContent.startsWith('The server is away')")
            seen = browser.evaluate("Number(document.body.dataset.seen)")
            with Daemon(*flags):
                browser.wait(f"$('state').textContent == 'serving' && Number(document.body.dataset.seen) > {seen} && !busy")
                page.does("put('top_k', '3')")
                self.assertEqual(page.kept()[0], 3)

    def test_there_is_nothing_for_axe_to_find_in_either_theme_and_on_a_phone(self) -> None:
        reports = self.folder / "reports"
        reports.mkdir()
        (reports / "a-report.html").write_text("<!DOCTYPE html><title>x</title><style>p{color:red}</style><p>found</p>", encoding="utf-8")
        address = self.daemon("--admin-listen=127.0.0.1:0", f"--studies-dir={reports}").page
        sizes = {path: len(fetch(address + path)) for path in FILES}
        print(f"the pages have {sum(sizes.values())} bytes")
        self.assertLess(sum(sizes.values()), PAGE_BYTES_MAX)
        axe = (pathlib.Path(os.environ["NODE_PATH"]) / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
        opened = "document.querySelectorAll('details').forEach(one => { one.open = true; })"
        backgrounds = set()
        for width, dark in ((1200, False), (1200, True), (390, False), (390, True)):
            with Browser(width=width) as browser:
                for path in ("/", "/live"):
                    browser.open(address + path, dark=dark)
                    if path == "/":
                        browser.wait("document.body.dataset.seen >= 1")
                        browser.evaluate(f"put('top_k', '8'); put('draws', '1000'); {opened}")
                        browser.wait("!busy && document.querySelectorAll('#drawn li').length > 2")
                    else:
                        browser.wait("document.body.dataset.points >= 1 && document.querySelectorAll('#reports a').length == 1")
                    browser.evaluate(axe + "; 0")
                    found = browser.evaluate("axe.run().then(found => found.violations.map(one => `${one.id}: ${one.nodes.map(node => node.html).join(' ')}`))")
                    self.assertEqual(found, [], (path, width, dark))
                    self.assertEqual(browser.complaints(), [])
                    self.assertLessEqual(browser.evaluate("document.documentElement.scrollWidth"), width)
                    backgrounds.add(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
        self.assertEqual(len(backgrounds), 2)
        self.assertIn(b"found", fetch(f"{address}/studies/a-report.html"))
        self.assertIn("is no report", self.refused(404, f"{address}/studies/..%2Fa-report.html"))

    def test_who_may_ask(self) -> None:
        tokens = self.folder / "tokens"
        tokens.write_text("secret-token somebody\n", encoding="utf-8")
        daemon = self.daemon("--admin-listen=127.0.0.1:0", f"--tokens-file={tokens}")
        address = daemon.page
        for path in ("/api/about", "/api/live", "/metrics", "/api/row.npy?row=0", "/api/studies"):
            self.assertIn("no token was sent", self.refused(401, address + path))
            fetch(address + path, headers={"Authorization": "Bearer secret-token"})
        self.assertEqual(json.loads(fetch(f"{address}/healthz")), {"status": "serving"})
        with Browser() as browser:
            browser.open(address)
            browser.wait("$('ask-token').open")
            self.assertIn("no token was sent", browser.evaluate("$('ask-why').textContent"))
            browser.evaluate("$('token').value = 'secret-token'; $('ask-token').querySelector('button').click()")
            browser.wait("document.body.dataset.seen >= 1")
            self.assertIn("Authorization: Bearer $TOKEN", browser.evaluate("$('snippet').textContent"))
        token = {"Authorization": "Bearer secret-token"}
        # By a name that somebody else gave to this host, and from a page of theirs.
        self.assertIn("allowed: localhost", self.refused(403, f"{address}/api/live", Host="evil.example", **token))
        self.assertIn("elsewhere", self.refused(403, f"{address}/api/live", **{"Sec-Fetch-Site": "cross-site", **token}))
        for data, path, part in ((b'{"top_k": -1}', "/api/look?row=0", "top_k is -1; allowed"), (b"{}", "/api/look?row=8", "row is 8; allowed: 0 to 7"),
                                 (b"{}", "/api/look?row=0&top=501", "allowed: 0 to 500"), (b"nonsense", "/api/look?row=0", "an object")):
            self.assertIn(part, self.refused(400, address + path, data, **token))
        self.assertIn("there is no /nowhere", self.refused(404, f"{address}/nowhere"))
        self.assertIn("another method", self.refused(405, f"{address}/api/look"))
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=TIMEOUT_S)
        connection.request("GET", "/")
        policy = connection.getresponse().getheader("Content-Security-Policy")
        connection.close()
        self.assertTrue(policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'") and "unsafe" not in policy, policy)

    def picture(self, browser: Browser, name: str) -> None:
        folder = pathlib.Path(os.environ.get("PICTURES") or self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        browser.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        browser.picture(folder / name)
        size = (folder / name).stat().st_size
        print(f"{name}: {size} bytes")
        self.assertTrue(5_000 < size < PICTURE_BYTES_MAX, f"{name} has {size} bytes")


if __name__ == "__main__":
    unittest.main()
