"""Tasks in processes of their own, some at a time, which nothing outlives.

Parent and child speak JSON: one line on the child's stdin is the request, each line on its stdout a report, the
last of which has a "status". Stdin stays open as a lifeline: its end, by whatever death of the parent, stops the
child. `Pool` is the parent's side, `serve` the child's.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import psutil

from course_lib.plumbing.paths import ROOT

Task = TypeVar("Task")
Report = Callable[[dict], None]

FAILED = 1
STOPPED = 75
"""Exit code of a child that was stopped at a checkpoint: "temporary failure, try again" in sysexits.h."""
TICK = 0.25
LEAVING = 10.0
"""Seconds that a child whose reports have ended may still take to end."""


def cores() -> int:
    """Return how many CPU cores this process may use (a container or a job scheduler may grant fewer than exist)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class StopRequest:
    """A request to stop: its reason, or "". `hard` after a second signal: kill instead of waiting."""

    reason: str = ""
    signum: int = 0
    hard: bool = False
    since: float = 0.0

    def ask(self, reason: str, signum: int = 0) -> None:
        """Ask to stop, or after a first request, by a signal, to stop at once."""
        if self.reason and signum:
            self.hard = True
        if not self.reason:
            self.reason, self.signum, self.since = reason, signum, time.monotonic()


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Yield a request that SIGINT, SIGTERM and SIGHUP fill in during the block (in the main thread)."""
    request = StopRequest()

    def asked(signum: int, _frame: object) -> None:
        request.ask(signal.Signals(signum).name, signum)

    here = threading.current_thread() is threading.main_thread()
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    signals = [getattr(signal, name) for name in names if hasattr(signal, name)] if here else []
    before = {signum: signal.getsignal(signum) for signum in signals}
    try:
        for signum in signals:
            if before[signum] is not signal.SIG_IGN:  # `nohup` stays in force
                signal.signal(signum, asked)
        yield request
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def kill_tree(pid: int) -> None:
    """Kill a process and all its descendants, in whatever sessions they are."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()


class Child:
    """A running `python -m module` that was sent `request`.

    It has a session of its own, so that Ctrl-C reaches the parent alone. A report {"process": PID} names a
    process that must not outlive the child.

    Args:
        module: a module whose `main` calls `serve`.
        request: plain JSON values.
        log: file to which all that the child prints is appended.
        environment: its whole environment.
        patience: seconds of silence after which it counts as stuck and is killed.
    """

    def __init__(
        self, module: str, request: dict, log: Path, environment: Mapping[str, str], patience: float = float("inf")
    ) -> None:
        self.log, self.patience = log, patience
        self.began = self.heard = time.monotonic()
        self.last: dict | None = None
        self.other: psutil.Process | None = None
        with open(log, "ab") as file:
            self._log_start = file.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                cwd=ROOT,
                env=dict(environment),
                start_new_session=True,
            )
        with suppress(BrokenPipeError):  # it died at once: the end of its reports shows it
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()

    def reports(self) -> Iterator[dict]:
        """Yield the child's reports as they come, until there are no more."""
        for line in self.process.stdout:
            with suppress(ValueError):  # killed in the middle of a line
                if isinstance(message := json.loads(line), dict):  # a library may print a number
                    yield message

    def note(self, message: dict) -> None:
        """Keep what the pool itself needs of a report."""
        self.heard = time.monotonic()
        if isinstance(number := message.get("process"), int):  # None would be this process
            with suppress(psutil.NoSuchProcess, ValueError, OverflowError):  # gone, or no process's number
                self.other = psutil.Process(number)
        if "status" in message:
            self.last = message

    @property
    def stuck(self) -> bool:
        return time.monotonic() - self.heard > self.patience

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def ask_to_stop(self) -> None:
        """End its stdin."""
        with suppress(BrokenPipeError):
            self.process.stdin.close()

    def kill(self) -> None:
        """Kill it with all its descendants and the process that it has named."""
        if self.process.poll() is None:
            kill_tree(self.process.pid)
        if self.other is not None and self.other.is_running():  # false for another process of this id
            kill_tree(self.other.pid)

    def leave(self) -> int:
        """Wait for its end, close its pipes, kill what it has left behind, and return its exit code."""
        try:
            code = self.process.wait(LEAVING)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self.process.wait()
        self.ask_to_stop()
        self.process.stdout.close()
        self.kill()
        return code

    def last_words(self, lines: int = 8) -> str:
        """Return the end of what it printed."""
        with suppress(OSError), open(self.log, "rb") as log:
            log.seek(self._log_start)
            return "\n".join(log.read().decode(errors="replace").strip().splitlines()[-lines:])
        return ""


class Pool(ABC, Generic[Task]):
    """Runs a child for each task, `slots` at a time and in order; one that fails stops no other.

    Subclasses define how a task's child is started and what its reports mean.
    """

    grace = 5.0
    """Seconds that a child which is asked to stop has before it is killed."""

    @abstractmethod
    def start(self, task: Task, slot: int) -> Child:
        """Start the child of `task` in place `slot`. An OSError is handed to `ended`."""

    def started(self, task: Task, child: Child) -> None:
        """Called after `start`."""

    def heard(self, task: Task, child: Child, message: dict) -> None:
        """Called for each report but the last."""

    def ended(self, task: Task, child: Child | None, error: OSError | None, told: bool) -> None:
        """Called once for each task that was begun. `told`: the pool had asked it to stop."""

    def ready(self, task: Task) -> bool:
        """Return whether `task` may begin now; one that may not is asked about again when another task has ended."""
        return True

    def stopping(self, reason: str) -> None:
        """Called once, when children are asked to stop."""

    def tick(self) -> None:
        """Called while nothing happens."""

    def run(self, tasks: Sequence[Task], *, slots: int, stop: StopRequest, deadline: float | None = None) -> list[Task]:
        """Run all tasks and return those that were never begun.

        When `stop` is asked or the clock (`time.monotonic`) passes `deadline`, nothing new is begun and what runs
        is asked to stop; after `grace` seconds, or a second signal, it is killed. Tasks that are still not `ready` when
        nothing runs any more are never begun.
        """
        self._waiting, self._free = deque(tasks), deque(range(slots))
        self._running: dict[Child, tuple[Task, int]] = {}
        self._events: queue.SimpleQueue = queue.SimpleQueue()
        told, never_begun = False, []
        try:
            while self._waiting or self._running:
                if deadline is not None and time.monotonic() >= deadline:
                    stop.ask("the time limit")
                if stop.reason and not told:
                    told = True
                    self.stopping(stop.reason)
                    never_begun = list(self._waiting)
                    self._waiting.clear()
                    for child in self._running:
                        child.ask_to_stop()
                if stop.hard or (told and time.monotonic() - stop.since > self.grace):
                    for child in self._running:
                        child.kill()
                self._start_waiting()
                if self._running:
                    self._one_event(told)
                elif self._waiting:
                    return never_begun + list(self._waiting)
        finally:
            for child in self._running:  # only after an error of our own
                child.kill()
        return never_begun

    def _start_waiting(self) -> None:
        while self._free and (task := next(filter(self.ready, self._waiting), None)) is not None:
            self._waiting.remove(task)
            slot = self._free.popleft()
            try:
                child = self.start(task, slot)
            except OSError as error:  # no room for its log, no process to be had
                self._free.appendleft(slot)
                self.ended(task, None, error, False)
                continue
            self._running[child] = (task, slot)
            threading.Thread(target=self._listen, args=(child,), daemon=True).start()
            self.started(task, child)

    def _listen(self, child: Child) -> None:
        for message in child.reports():
            self._events.put((child, message))
        self._events.put((child, None))

    def _one_event(self, told: bool) -> None:
        try:
            child, message = self._events.get(timeout=TICK)
        except queue.Empty:
            for child in self._running:
                if child.stuck:
                    child.last = {"status": "stuck"}
                    child.kill()
            self.tick()
            return
        if message is not None:
            child.note(message)
            if "status" not in message:
                self.heard(self._running[child][0], child, message)
            return
        task, slot = self._running.pop(child)
        self._free.appendleft(slot)
        child.leave()
        self.ended(task, child, None, told)


def start_lean() -> None:
    """Keep this process from building a parser that it does not need, which takes a second.

    jsonschema, which nbformat imports, makes one of internationalised addresses where a package for it is installed
    (JupyterLab brings it). No notebook has such an address; without the package jsonschema goes on as it is.
    """
    sys.modules.setdefault("rfc3987_syntax", None)


def serve(work: Callable[[dict, threading.Event, Report], dict], abandon: Callable[[dict], None] | None = None) -> None:
    """Be a child: read the request, do the work, report, and end this process.

    The end of stdin, SIGTERM and SIGINT ask to stop. The exit code is 0, FAILED or STOPPED after the status "failed"
    or "stopped".

    Args:
        work: (request, stop, report) -> the last report, with its "status". It ends soon after `stop` is set.
        abandon: called with the request instead, from another thread or a signal's handler; it must not return.
    """
    start_lean()
    reports = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries and descendants print goes to the log
    request = json.loads(sys.stdin.readline() or sys.exit(FAILED))
    stop, reading = threading.Event(), True

    def asked() -> None:
        if abandon is not None:
            abandon(request)
        stop.set()

    def signalled(signum: int, _frame: object) -> None:
        if stop.is_set():
            os._exit(128 + signum)
        asked()

    def watch() -> None:
        while os.read(0, 1024):  # `sys.stdin.read` holds a lock for which every forked process would wait
            pass
        asked()

    def report(message: dict) -> None:
        nonlocal reading
        try:
            if reading:
                reports.write(json.dumps(message) + "\n")
                reports.flush()
        except BrokenPipeError:  # nobody listens any more: stdin has ended too
            reading = False

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signalled)
    threading.Thread(target=watch, daemon=True).start()
    last = work(request, stop, report)
    report(last)
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    # an interpreter with sockets and a thread on stdin may end slowly
    os._exit({"failed": FAILED, "stopped": STOPPED}.get(last["status"], 0))
