"""The runner of processes: order, places, stopping, killing, and what a child leaves behind."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from course_lib.plumbing import processes
from course_lib.plumbing.processes import Child, Pool, StopRequest


class Told(Pool[dict]):
    """A pool of children for the tests; keeps what it hears of them."""

    def __init__(self, folder, patience=60.0):
        self.folder, self.patience, self.events, self.children, self.on_heard = folder, patience, [], [], None

    def start(self, task, slot):
        if task.get("impossible"):
            raise OSError("no process to be had")
        log = self.folder / f"{task['says']}.log"
        self.children.append(Child("tests.child_for_tests", task, log, os.environ, self.patience))
        return self.children[-1]

    def heard(self, task, child, message):
        if "said" in message:
            self.events.append(("heard", message["said"]))
            if self.on_heard is not None:
                self.on_heard()

    def ended(self, task, child, error, told):
        status = "no child" if child is None else (child.last or {"status": "killed"})["status"]
        self.events.append((status, task["says"]))


def test_tasks_run_in_order_and_one_that_fails_stops_no_other(tmp_path):
    tasks = [{"says": "a"}, {"says": "b", "impossible": True}, {"says": "c", "dies": True}, {"says": "d"}]
    pool = Told(tmp_path)
    assert pool.run(tasks, slots=1, stop=StopRequest()) == []
    assert pool.events == [
        ("heard", "a"), ("done", "a"), ("no child", "b"), ("killed", "c"), ("heard", "d"), ("done", "d"),
    ]  # fmt: skip
    assert pool.children[0].last_words() == "it began"


def test_a_request_to_stop_ends_what_runs_and_begins_nothing(tmp_path):
    pool, stop = Told(tmp_path), StopRequest()
    pool.on_heard = lambda: stop.ask("the test")
    left = pool.run([{"says": "a", "waits": True}, {"says": "b"}], slots=1, stop=stop)
    assert pool.events == [("heard", "a"), ("stopped", "a")]
    assert left == [{"says": "b"}]


def test_a_second_signal_kills_at_once(tmp_path):
    pool, stop = Told(tmp_path), StopRequest()
    pool.grace = 600.0
    pool.on_heard = lambda: (stop.ask("SIGINT", 2), stop.ask("SIGINT", 2))
    pool.run([{"says": "a", "deaf": True}], slots=1, stop=stop)
    assert pool.events == [("heard", "a"), ("killed", "a")]


def test_a_deadline_asks_to_stop_and_grace_has_an_end(tmp_path):
    pool, stop = Told(tmp_path), StopRequest()
    pool.grace = 0.5
    pool.run([{"says": "a", "deaf": True}], slots=1, stop=stop, deadline=time.monotonic() + 2)
    assert pool.events[-1] == ("killed", "a")
    assert stop.reason == "the time limit"


def test_a_silent_child_is_stuck(tmp_path):
    pool = Told(tmp_path, patience=3.0)
    pool.run([{"says": "a", "deaf": True}], slots=1, stop=StopRequest())
    assert pool.events == [("heard", "a"), ("stuck", "a")]


@pytest.mark.parametrize(
    "line",
    [
        "5",
        "null",
        '"status"',
        '["status"]',
        "no JSON",
        "[" * 9 + "5",
        '{"process": "abc"}',
        '{"process": -1}',
        '{"process": null}',
        '{"process": 1e99}',
    ],
)
def test_a_line_that_is_no_report_is_passed_over(tmp_path, line):
    pool = Told(tmp_path)
    pool.run([{"says": "a", "first": line}], slots=1, stop=StopRequest())
    assert pool.events == [("heard", "a"), ("done", "a")]
    assert pool.children[0].other is None


def test_a_child_that_only_closes_its_reports_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "LEAVING", 0.5)
    pool = Told(tmp_path)
    pool.run([{"says": "a", "closes": True}, {"says": "b"}], slots=1, stop=StopRequest())
    assert pool.events == [("killed", "a"), ("heard", "b"), ("done", "b")]


def test_a_process_that_a_child_has_named_does_not_outlive_it(tmp_path):
    pool = Told(tmp_path)
    pool.run([{"says": "a", "leaves": True, "dies": True}], slots=1, stop=StopRequest())
    other, deadline = pool.children[0].other, time.monotonic() + 30
    while other.is_running() and other.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not other.is_running() or other.status() == psutil.STATUS_ZOMBIE


def test_a_process_that_a_child_forks_does_not_wait_for_the_thread_on_stdin(tmp_path):
    pool = Told(tmp_path)
    pool.run([{"says": "a", "forks": True}], slots=1, stop=StopRequest())
    assert pool.events == [("heard", "a"), ("done", "a")]


def test_a_process_starts_lean():
    """Of the packages that nbformat imports, the parser of addresses is left out, and notebooks are validated."""
    script = (
        "import sys; from course_lib.plumbing.processes import start_lean; start_lean(); import nbformat; "
        "nbformat.validate(nbformat.v4.new_notebook()); print(sys.modules['rfc3987_syntax'], 'lark' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "False"]
