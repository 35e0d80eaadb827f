"""A child of `tests/test_processes.py`, which does what its request says."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

from course_lib.plumbing.processes import serve

REPORTS = os.dup(1)
"""What the parent reads, beside the reports of `serve`."""


def work(request, stop, report):
    print("it began")
    if "leaves" in request:  # a process of another session, which only its number can reach
        left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        report({"process": left.pid})
    if "first" in request:
        os.write(REPORTS, request["first"].encode() + b"\n")
    if request.get("closes"):
        os.closerange(3, 100)
        time.sleep(600)
    if request.get("dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    if request.get("forks"):  # as the processes that load pictures are
        forked = multiprocessing.get_context("fork").Process(target=int)
        forked.start()
        forked.join(20)
        if forked.exitcode is None:
            os.kill(forked.pid, signal.SIGKILL)
            return {"status": "failed"}
    report({"said": request["says"]})
    if request.get("deaf"):
        time.sleep(600)
    if request.get("waits"):
        stop.wait(600)
        return {"status": "stopped"}
    return {"status": "done"}


if __name__ == "__main__":
    serve(work)
