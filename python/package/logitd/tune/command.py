"""Trials that are commands: parameters go in as variables and placeholders, numbers come out as lines of JSON.

    LOGITD_TEMPERATURE=0.8 .. sh -c COMMAND   ->   {"step": 1, "loss": 3.9}      what a pruner is told
                                                   anything else                 kept for the case of failure
                                                   {"loss": 3.5, "tail": 0.001}  the last line: the result
"""

from __future__ import annotations

import json
import os
import queue
import re
import shlex
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from .metrics import named, read
from .trials import Failed, Talk, is_number, numbers_of

__all__ = ["Command", "variable"]

# Between two looks at whether the search goes on.
LOOK_S = 0.1
# From SIGTERM to SIGKILL.
GRACE_S = 5.0
# Longer lines are cut off, and say so: what is left is no result.
LINE_CHARACTERS_MAX = 1 << 20
CUT = f".. (cut off after {LINE_CHARACTERS_MAX} characters)"
# What is told of a command that has failed: so many lines, and so much of each.
LINES_TOLD = 20
CHARACTERS_TOLD = 400
# What ends a command whose search is gone: it reads a pipe that only the search writes to, and whose end nothing can hide, not
# even SIGKILL. A line says that there is nothing to end any more.
GUARD = 'read -r _ || { kill -s TERM -- "-$1"; sleep "$2"; kill -s KILL -- "-$1"; }'
# For what is still in a pipe when the command has ended.
DRAIN_S = 1.0


def variable(name: str) -> str:
    """The variable that a parameter is in: LOGITD_TOP_P of top_p."""
    return "LOGITD_" + re.sub(r"\W", "_", name).upper()


class Command:
    """A command line, run by `sh` in a process group of its own.

    `{name}` in it is the value of a parameter, quoted for the shell; `{seed}` is the seed, the same for every trial:
    differences between settings are not differences of luck.
    """

    def __init__(self, command: str, *, seed: int, timeout_s: float | None = None, metrics: Sequence[str] = ()) -> None:
        self._command, self._seed, self._timeout_s = command, seed, timeout_s
        self._metrics = {name: named(name) for name in metrics}

    def run(self, params: Mapping[str, Any], talk: Talk) -> Mapping[str, float]:
        """The numbers of the last line, and of the metrics."""
        values = {**params, "seed": self._seed}
        try:
            process = _Process(_filled(self._command, values), {variable(name): str(value) for name, value in values.items()})
        except OSError as error:
            raise Failed(f"the command cannot be started: {error}") from error
        try:
            for line in process.lines(talk, self._timeout_s):
                step = _json(line)
                if step is not None and isinstance(step.get("step"), int) and is_number(step["step"]):
                    talk.report(step["step"], numbers_of(step))
        except BaseException:
            process.end()
            raise
        finally:
            process.close()
        return self._result(process)

    def _result(self, process: _Process) -> dict[str, float]:
        if process.code != 0:
            raise process.failed(f"the command ended with {_said_of(process.code)}")
        found = _json(process.last)
        if process.last.endswith(CUT):
            raise process.failed(f"the command's last line is longer than {LINE_CHARACTERS_MAX} characters: \"generated\" may be the path of a file")
        if found is None:
            raise process.failed("the command's last line is no JSON object of numbers")
        numbers = numbers_of(found)
        for name, (source, metric) in self._metrics.items():
            if source not in found:
                raise process.failed(f"{name} is of {source!r}, which is not in the command's last line")
            try:
                numbers[name] = metric(read(found[source]) if source == "generated" else found[source])
            except (ValueError, TypeError, OSError) as error:
                raise process.failed(f"{name}: {error}") from error
        return numbers


def _filled(command: str, values: Mapping[str, Any]) -> str:
    """The command with its placeholders replaced. Other braces are the shell's."""
    names = "|".join(map(re.escape, sorted(values, key=len, reverse=True)))
    return re.sub(rf"\{{({names})\}}", lambda found: shlex.quote(str(values[found[1]])), command)


def _json(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _said_of(code: int) -> str:
    names = {number.value: number.name for number in signal.Signals}
    return f"signal {names.get(-code, -code)}" if code < 0 else f"code {code}"


class _Process:
    """A command that runs, with what it says."""

    def __init__(self, command: str, variables: Mapping[str, str]) -> None:
        self.last = ""
        self._told: deque[str] = deque(maxlen=LINES_TOLD)
        self._lines: queue.Queue[str | None] = queue.Queue(maxsize=1024)
        self._child = subprocess.Popen(
            ["/bin/sh", "-c", command],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        assert self._child.stdout is not None and self._child.stderr is not None
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD, "logitd-tune-guard", str(self._child.pid), f"{GRACE_S:g}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Whoever ends the search's group, by a key or by a shell, does not mean this.
            start_new_session=True,
        )
        self._ended = threading.Event()
        self._readers = [
            threading.Thread(target=self._read_out, args=(self._child.stdout,), daemon=True),
            threading.Thread(target=self._read_err, args=(self._child.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def code(self) -> int:
        """How it ended."""
        return self._child.wait()

    def lines(self, talk: Talk, timeout_s: float | None) -> Iterator[str]:
        """Its lines as they come, to the end."""
        began, ended_at = time.monotonic(), None
        while True:
            try:
                line = self._lines.get(timeout=LOOK_S)
            except queue.Empty:
                # A process of its own that it left behind may hold the pipe open.
                if self._child.poll() is not None:
                    ended_at = ended_at or time.monotonic()
                    if time.monotonic() > ended_at + DRAIN_S:
                        return
                line = ""
            if line is None:
                # It may have closed its output and go on.
                while self._child.poll() is None:
                    self._look(talk, began, timeout_s)
                    time.sleep(LOOK_S)
                return
            self._look(talk, began, timeout_s)
            if line:
                self.last = line
                self._told.append(line)
                yield line

    def _look(self, talk: Talk, began: float, timeout_s: float | None) -> None:
        talk.look()
        if timeout_s is not None and time.monotonic() > began + timeout_s:
            raise self.failed(f"the command took longer than --trial-timeout {timeout_s:g} s")

    def failed(self, why: str) -> Failed:
        """Why there is no result, with the last lines of what it said."""
        self._readers[1].join(timeout=DRAIN_S)
        said = "\n".join(f"    {line[:CHARACTERS_TOLD]}" for line in list(self._told))
        return Failed(f"{why}\n{said}" if said else f"{why}, and said nothing")

    def close(self) -> None:
        """Nobody reads any further. What it left behind to run may say more."""
        self._ended.set()
        self._guard.communicate(b"\n")

    def end(self) -> None:
        """Ends it and all of its group, at first kindly."""
        self._signal(signal.SIGTERM)
        try:
            self._child.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            pass
        # Whoever of the group is left: it has no leader then, but its number still.
        self._signal(signal.SIGKILL)
        self._child.wait()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._child.pid, number)
        except ProcessLookupError:
            pass

    def _read_out(self, pipe: IO[str]) -> None:
        for line in _lines_of(pipe):
            while not self._ended.is_set():
                try:
                    self._lines.put(line, timeout=LOOK_S)
                    break
                except queue.Full:
                    continue
        self._put_end()

    def _put_end(self) -> None:
        while not self._ended.is_set():
            try:
                return self._lines.put(None, timeout=LOOK_S)
            except queue.Full:
                continue

    def _read_err(self, pipe: IO[str]) -> None:
        for line in _lines_of(pipe):
            self._told.append(line)


def _lines_of(pipe: IO[str]) -> Iterator[str]:
    with pipe:
        while line := pipe.readline(LINE_CHARACTERS_MAX):
            part, is_cut = line, False
            # The rest of a long line is no line of its own.
            while not part.endswith("\n") and (part := pipe.readline(LINE_CHARACTERS_MAX)):
                is_cut = is_cut or part != "\n"
            if line := line.strip():
                yield line + CUT if is_cut else line
