"""What open pages cost a server and its callers: python benches/page/open.py target/release/logitd [--pages 100] [--moving 20] [--seconds 10]

Starts `logitd play`, and measures three times: without pages, with pages that are left open at /live, and with pages whose
sliders move without a rest. Of each: the processor time of the server, and how long callers of `logitd load` wait.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import subprocess

TICKS = os.sysconf("SC_CLK_TCK")
POLL_S = 2


class Visitor:
    """A connection to the page, which asks one question after another."""

    def __init__(self, page: str) -> None:
        self.host, port = page.removeprefix("http://").strip("/").split(":")
        self.port, self.asked = int(port), 0

    async def ask(self, method: str, path: str, body: bytes = b"") -> dict:
        if self.asked == 0:
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        head = f"{method} {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nContent-Length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)
        answered = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(line for line in answered.split("\r\n") if line.startswith("content-length:"))
        self.asked += 1
        return json.loads(await self.reader.readexactly(int(length.split(":")[1])))

    async def watch(self) -> None:
        """As /live does."""
        await asyncio.sleep(random.random() * POLL_S)
        last = 0
        while True:
            last = (await self.ask("GET", f"/api/live?since={last}"))["last"]
            await self.ask("GET", "/healthz")
            await asyncio.sleep(POLL_S)

    async def move(self) -> None:
        """As somebody does who never lets go of a slider."""
        while True:
            top_p = random.randrange(1, 100) / 100
            await self.ask("POST", f"/api/look?row={random.randrange(8)}", json.dumps({"temperature": 0.8, "top_p": top_p}).encode())


def processor_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def measure(args: argparse.Namespace, what: str, server: subprocess.Popen, target: str, visits: list) -> None:
    tasks = [asyncio.create_task(work()) for _, work in visits]
    await asyncio.sleep(POLL_S)
    before, asked = processor_s(server.pid), sum(visitor.asked for visitor, _ in visits)
    await asyncio.sleep(args.seconds)
    idle = (processor_s(server.pid) - before) / args.seconds
    answered = (sum(visitor.asked for visitor, _ in visits) - asked) / args.seconds
    command = [args.logitd, "load", f"--target={target}", "--rate=100", f"--duration={args.seconds}s", "--vocab-size=32768", "--json"]
    load = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    said, _ = await load.communicate()
    waits = json.loads(said.splitlines()[-1])["runs"][0]["service"]
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    print(f"{what}: {answered:.0f} questions/s, {1000 * idle:.1f} ms of processor time a second; callers wait {waits['p50_us']:.0f} us (p50), {waits['p99_us']:.0f} us (p99)")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logitd")
    parser.add_argument("--pages", type=int, default=100)
    parser.add_argument("--moving", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=10)
    args = parser.parse_args()
    with subprocess.Popen([args.logitd, "play", "--no-open"], stdout=subprocess.PIPE, text=True) as server:
        page = server.stdout.readline().split()[-1]
        target = server.stdout.readline().split()[-1]
        try:
            await measure(args, "no page", server, target, [])
            for count, what, work in ((args.pages, "pages left open", Visitor.watch), (args.moving, "pages whose sliders move", Visitor.move)):
                visitors = [Visitor(page) for _ in range(count)]
                visits = [(visitor, lambda visitor=visitor, work=work: work(visitor)) for visitor in visitors]
                await measure(args, f"{count} {what}", server, target, visits)
        finally:
            server.terminate()


asyncio.run(main())
