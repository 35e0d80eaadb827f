"""`course run`: real notebooks in real kernels, and what is left when they are interrupted."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from rich.console import Console
from typer.testing import CliRunner

from course_lib.cli import app, run, stamps
from course_lib.cli import notebook_pool as workers
from course_lib.cli import notebook_process as run_one
from course_lib.cli.selection import Refusal, declared_parameters, find_notebook, parse_like, select
from course_lib.plumbing.processes import cores

PARAMETERS = 'PROFILE = "quick"\nRATE = 1e-2\nSTEPS = 3\nNAME = "a"\nFAST = False\nSIZES = [1, 2]'
MARKER = "COURSE_TEST_MARKER"
PATIENCE = 120  # seconds that a busy machine may take for what takes two


def write_notebook(path: Path, *cells: str, parameters: str = PARAMETERS, tags: dict | None = None) -> Path:
    """A notebook of code cells; `tags` maps the number of a cell to its tag."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    code = [nbformat.v4.new_code_cell(source) for source in (parameters, *cells)]
    code[0].metadata.tags = ["parameters"]
    for number, tag in (tags or {}).items():
        code[number].metadata.tags = [tag]
    notebook.cells = [nbformat.v4.new_markdown_cell("# A notebook"), *code]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


# The command, blind for edits of the library by whoever works on it while the tests run.
COURSE = """
from course_lib.cli import app, stamps
stamps.library_hash = lambda: "the library"
app(prog_name="course")
"""


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", COURSE, "run", *map(str, arguments)]


def course_run(*arguments: object, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*arguments), env=os.environ | env, capture_output=True, text=True, timeout=400, check=False
    )


def outputs(notebook: Path) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    return "\n".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


def marked(marker: str) -> list[psutil.Process]:
    """The living processes that inherited `marker` in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARKER) == marker:
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_until(condition, what: str):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.1)
    raise AssertionError(f"waited {PATIENCE} s for {what}")


# -- what becomes of notebooks ---------------------------------------------------------------------

WIDGETS = """
import ipywidgets
from IPython.display import display
picture = ipywidgets.Output()
with picture:
    print("inside")
display(picture)
def show(rate):
    print("rate", rate)
ipywidgets.interact(show, rate=ipywidgets.IntSlider(3, 1, 8));
"""


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """One run of notebooks with all kinds of ends: its folder, its result, its summary by name."""
    folder = tmp_path_factory.mktemp("mixed")
    good = "print(PROFILE, RATE, type(RATE).__name__, STEPS)"
    notebooks = [
        write_notebook(folder / "02_good.ipynb", good, "import os; print(os.environ['OMP_NUM_THREADS'])"),
        write_notebook(folder / "03_raises.ipynb", "def f(x): return 1 / x", "f(0)", "print('never')"),
        write_notebook(folder / "04_dies.ipynb", "import os; os._exit(3)", "print('never')"),
        write_notebook(folder / "05_widgets.ipynb", *[WIDGETS] * 6, "print('all shown')"),
        write_notebook(folder / "06_shows_an_error.ipynb", "1 / 0", "print('after')", tags={1: "raises-exception"}),
        write_notebook(folder / "solutions/02_good_solutions.ipynb", "print('solved', PROFILE)"),
    ]
    arguments = ("--out", folder / "out", "--timeout", 100, "--jobs", 2, "--profile", "laptop")
    values = ("-p", "RATE", "1e-3", "-p", "STEPS=5")
    done = course_run(*notebooks, *arguments, *values, COURSE_TEST_MARKER=str(folder))
    return folder / "out", done, summary_of(folder / "out")


def summary_of(out: Path) -> dict[str, dict]:
    entries = json.loads((out / "summary.json").read_text())["notebooks"]
    return {entry["name"]: entry for entry in entries}


def error_outputs(notebook: Path) -> list[str]:
    cells = nbformat.read(notebook, as_version=4).cells
    found = [output for cell in cells for output in cell.get("outputs", [])]
    return [output.evalue for output in found if output.output_type == "error"]


def test_failures_are_counted_and_end_only_their_own_notebook(mixed):
    _, done, summary = mixed
    status = {name: entry["status"] for name, entry in summary.items()}
    assert status == {
        "02_good": "ok",
        "03_raises": "failed",
        "04_dies": "failed",
        "05_widgets": "ok",
        "06_shows_an_error": "ok",
        "solutions/02_good_solutions": "ok",
    }, done.stdout
    assert done.returncode == 2
    assert "6 notebooks: 4 ok, 2 failed" in done.stdout


def test_a_cell_that_takes_too_long_fails(tmp_path):
    notebook = write_notebook(tmp_path / "01_slow.ipynb", "import time; time.sleep(300)", "print('never')")
    done = course_run(notebook, "--out", tmp_path / "out", "--timeout", 5)
    assert done.returncode == 1
    assert "01_slow failed: a cell took longer than 5 s" in done.stdout
    # nbclient may have interrupted the cell, which leaves an error before ours
    *_, last = error_outputs(tmp_path / "out/01_slow.failed.ipynb")
    assert last == "a cell took longer than 5 s"


def test_each_failure_says_why(mixed):
    _, done, summary = mixed
    assert summary["03_raises"]["reason"] == "ZeroDivisionError in cell [4]"
    assert summary["04_dies"]["reason"] == "the kernel died"
    assert "ZeroDivisionError: division by zero" in done.stdout
    assert "\x1b" not in done.stdout


def test_failed_copies_show_where_they_stopped(mixed):
    out, done, summary = mixed
    for name, message in (("03_raises", "division by zero"), ("04_dies", "the kernel died")):
        failed = out / f"{name}.failed.ipynb"
        assert str(failed) in done.stdout
        assert summary[name]["output"] == failed.name
        assert not (out / f"{name}.ipynb").exists()
        assert error_outputs(failed) == [message]
        assert "never" not in outputs(failed)


def test_parameters_arrive_with_the_type_of_the_default(mixed):
    out, _, summary = mixed
    assert "laptop 0.001 float 5" in outputs(out / "02_good.ipynb")
    assert summary["02_good"]["parameters"] == {"PROFILE": "laptop", "RATE": 0.001, "STEPS": 5}
    assert "solved laptop" in outputs(out / "solutions/02_good_solutions.ipynb")


def test_cores_are_shared_out(mixed):
    out, _, _ = mixed
    share = os.environ.get("OMP_NUM_THREADS", str(max(1, cores() // 2)))
    assert outputs(out / "02_good.ipynb").split()[-1] == share


def test_widgets_do_not_hang(mixed):
    out, _, summary = mixed
    assert "all shown" in outputs(out / "05_widgets.ipynb")
    assert summary["05_widgets"]["status"] == "ok"  # a hang ends at the timeout


def test_the_cure_for_widgets_is_applied_before_papermill_runs(tmp_path, monkeypatch):
    # nbclient's block comes in one run of three, so that the test above may pass by luck
    import papermill
    from jupyter_client.channels import AsyncZMQSocketChannel as Channel

    async def wait_once(self, timeout=None):
        raise AssertionError

    def no_run(*_, **__):
        raise RuntimeError("cured" if hasattr(Channel.get_msg, "waits_in_slices") else "not cured")

    monkeypatch.setattr(Channel, "get_msg", wait_once)
    monkeypatch.setattr(papermill, "execute_notebook", no_run)
    (tmp_path / "none.ipynb").write_text('{"cells": []}')
    job = dict.fromkeys(("partial", "sockets", "timeout"), str(tmp_path))
    job |= {"notebook": str(tmp_path / "none.ipynb"), "parameters": {}}
    with pytest.raises(RuntimeError, match=r"^cured"):
        run_one.execute(job, print)


def test_a_cell_may_be_meant_to_raise(mixed):
    out, _, _ = mixed
    copy = out / "06_shows_an_error.ipynb"
    assert "after" in outputs(copy)
    assert "papermill-error" not in copy.read_text()


def test_executed_copies_name_no_folder_of_this_machine(mixed):
    out, _, _ = mixed
    for copy in out.glob("*.ipynb"):
        assert str(out.parent) not in json.dumps(json.loads(copy.read_text())["metadata"])


def test_nothing_is_left_over(mixed):
    out, _, _ = mixed
    assert not marked(str(out.parent))
    assert not list(out.rglob("*partial*"))
    assert {path.name.removesuffix(".stamp.json") for path in out.glob("*.stamp.json")} == {
        "02_good",
        "05_widgets",
        "06_shows_an_error",
    }


# -- interrupted -----------------------------------------------------------------------------------


class Interrupted:
    """A `course run` of two notebooks: the first is done, the second sleeps in a cell."""

    def __init__(self, folder: Path) -> None:
        self.out, self.asleep, self.awake = folder / "out", folder / "asleep", folder / "awake"
        self.marker = str(folder)
        sleep = f"""
from pathlib import Path
import subprocess, time
if not Path({str(self.awake)!r}).exists():
    child = subprocess.Popen(["sleep", "300"])
    Path({str(self.asleep)!r}).touch()
    time.sleep(300)
print("woke up")
"""
        self.notebooks = [
            write_notebook(folder / "01_first.ipynb", "print('done')"),
            write_notebook(folder / "02_sleeps.ipynb", sleep),
        ]
        self.arguments = (*self.notebooks, "--out", self.out, "--jobs", 2)
        self.process = subprocess.Popen(
            command(*self.arguments),
            env=os.environ | {MARKER: self.marker},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_until_asleep(self) -> None:
        wait_until(self.asleep.exists, "the second notebook to fall asleep")
        wait_until((self.out / "01_first.stamp.json").exists, "the first notebook to end")

    def workers(self) -> list[psutil.Process]:
        return [process for process in marked(self.marker) if "course_lib.cli.notebook_process" in process.cmdline()]

    def end(self) -> str:
        text, _ = self.process.communicate(timeout=PATIENCE)
        return text

    def assert_nothing_is_left(self) -> None:
        wait_until(lambda: not marked(self.marker), "kernels and their children to end")
        wait_until(lambda: not list(self.out.glob(".*")), "unfinished copies to go")

    def assert_resumes(self) -> None:
        self.awake.touch()
        done = course_run(*self.arguments, "--resume")
        assert done.returncode == 0, done.stdout
        assert "1 ok, 1 skipped" in done.stdout
        assert "woke up" in outputs(self.out / "02_sleeps.ipynb")
        assert not list(self.out.glob(".*"))


@pytest.fixture
def interrupted(tmp_path):
    started = Interrupted(tmp_path)
    try:
        started.wait_until_asleep()
        yield started
    finally:
        for process in marked(started.marker):  # only where the test has failed
            process.kill()
        started.process.communicate()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_orderly_stop_leaves_nothing_and_resumes(interrupted, name):
    signum = getattr(signal, name)
    os.killpg(interrupted.process.pid, signum)  # as a terminal does: to the whole group
    text = interrupted.end()
    assert interrupted.process.returncode == 128 + signum
    assert "--resume" in text
    assert not marked(interrupted.marker), "a process outlived course run"
    interrupted.assert_nothing_is_left()
    assert not (interrupted.out / "02_sleeps.ipynb").exists()
    summary = json.loads((interrupted.out / "summary.json").read_text())["notebooks"]
    assert [entry["status"] for entry in summary] == ["ok", "stopped"]
    interrupted.assert_resumes()


def test_killed_outright_it_leaves_nothing_and_resumes(interrupted):
    assert not (interrupted.out / "02_sleeps.ipynb").exists(), "half a notebook under the name of a whole"
    interrupted.process.kill()
    interrupted.end()
    interrupted.assert_nothing_is_left()
    assert not (interrupted.out / "02_sleeps.ipynb").exists()
    interrupted.assert_resumes()


def test_kernels_die_even_if_all_that_watches_them_is_killed(interrupted):
    interrupted.process.send_signal(signal.SIGSTOP)  # or it might see a worker die, and clear up, before its own end
    for process in [*interrupted.workers(), interrupted.process]:
        process.kill()
    interrupted.end()
    wait_until(
        lambda: not any("ipykernel_launcher" in " ".join(p.cmdline()) for p in marked(interrupted.marker)),
        "the kernel to end",
    )
    for child in marked(interrupted.marker):  # `sleep`, which nobody is left to end
        child.kill()
    assert list(interrupted.out.glob(".*.partial.ipynb"))
    interrupted.assert_resumes()


def test_a_killed_worker_fails_its_notebook_alone(interrupted):
    for process in interrupted.workers():
        process.kill()
    text = interrupted.end()
    assert interrupted.process.returncode == 1
    assert "02_sleeps failed: its process was killed" in text
    assert (interrupted.out / "01_first.ipynb").exists()
    interrupted.assert_nothing_is_left()


# -- resuming --------------------------------------------------------------------------------------


@pytest.fixture
def executed(tmp_path):
    """A stamped copy, made without a kernel; what it was made from; the notebook."""
    notebook = write_notebook(tmp_path / "01_one.ipynb", "print('one')")
    output = tmp_path / "out/01_one.ipynb"
    output.parent.mkdir()
    output.write_text(notebook.read_text())
    origin = stamps.made_from(notebook, {"PROFILE": "quick"})
    stamps.write_stamp(output, origin, "2000-01-01T00:00:00+00:00", 1.0)
    return output, origin, notebook


def test_an_unchanged_notebook_is_up_to_date(executed):
    output, origin, notebook = executed
    assert stamps.is_current(output, origin)
    done = CliRunner().invoke(app, ["run", str(notebook), "--out", str(output.parent), "--resume"])
    assert done.exit_code == 0
    assert "1 skipped" in done.output


def test_a_change_of_anything_makes_it_out_of_date(executed):
    output, origin, notebook = executed
    write_notebook(notebook, "print('two')")
    assert not stamps.is_current(output, stamps.made_from(notebook, {"PROFILE": "quick"}))
    for name, value in (("parameters", {"PROFILE": "gpu"}), ("library", "0" * 64), ("versions", {})):
        assert not stamps.is_current(output, origin | {name: value}), name
    output.write_text(output.read_text()[:100])
    assert not stamps.is_current(output, origin)


def test_the_library_hash_sees_code_tables_and_checkpoints(tmp_path):
    def changes(path: str) -> bool:
        before = stamps.library_hash(tmp_path)
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
        return stamps.library_hash(tmp_path) != before

    assert changes("losses.py")
    assert changes("experiments/tables/drn.toml")
    assert changes("checkpoints/fcn.safetensors")
    assert not changes("__pycache__/losses.cpython-311.pyc")
    assert not changes("cli/run.py")


def test_a_changed_notebook_runs_again_and_a_failure_is_not_forgotten(tmp_path):
    notebook = write_notebook(tmp_path / "01_one.ipynb", "print('one')")
    arguments = (notebook, "--out", tmp_path / "out", "--resume")
    assert course_run(*arguments).returncode == 0
    source = notebook.read_text()
    write_notebook(notebook, "1 / 0")
    assert course_run(*arguments).returncode == 1
    assert "one" in outputs(tmp_path / "out/01_one.ipynb"), "the last good copy stays"
    notebook.write_text(source)
    done = course_run(*arguments)
    assert "1 ok" in done.stdout
    assert not (tmp_path / "out/01_one.failed.ipynb").exists()


def test_a_notebook_edited_while_it_runs_is_not_up_to_date(tmp_path):
    notebook = tmp_path / "01_one.ipynb"
    write_notebook(notebook, f"open({str(notebook)!r}, 'a').write(' ')")
    done = course_run(notebook, "--out", tmp_path / "out")
    assert done.returncode == 0
    assert "01_one: edited while it ran" in done.stdout
    assert not (tmp_path / "out/01_one.stamp.json").exists()


# -- refused before anything runs ------------------------------------------------------------------


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Run the command on a notebook; assert that it is refused with nothing done; return the message."""
    notebook = write_notebook(tmp_path / "03_fcn.ipynb", "print('ran')")

    def never(*_: object) -> None:
        raise AssertionError("a notebook was started")

    monkeypatch.setattr(run, "run_jobs", never)

    def invoke(*arguments: str, path: object = notebook) -> str:
        done = CliRunner().invoke(app, ["run", str(path), "--out", str(tmp_path / "out"), *arguments])
        assert done.exit_code == 2, done.output
        assert not (tmp_path / "out").exists()
        return done.output

    return invoke


def test_a_misspelt_parameter_is_refused(refused):
    message = refused("-p", "RAET", "1")
    assert "03_fcn.ipynb has no parameter RAET" in message
    assert "did you mean 'RATE'?" in message


def test_a_value_of_the_wrong_type_is_refused(refused):
    assert "STEPS must be a whole number like 3, not '1e-3'" in refused("-p", "STEPS", "1e-3")
    assert "FAST must be true or false" in refused("-p", "FAST=maybe")
    assert "SIZES must be a list like [1, 2], not '7'" in refused("-p", "SIZES", "7")


def test_a_misspelt_profile_is_refused(refused):
    assert "did you mean 'laptop'?" in refused("--profile", "labtop")


def test_the_profile_is_no_ordinary_parameter(refused):
    assert "--profile gpu" in refused("-p", "PROFILE", "gpu")


def test_a_parameter_needs_a_value(refused):
    assert "write -p NAME VALUE" in refused("-p", "RATE")


def test_an_unknown_notebook_is_refused(refused):
    assert 'no notebook "no_such"' in refused(path="no_such")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no JSON, Expecting property name"),
        ('{"cells": 3}', "it has no list of cells"),
        ('{"cells": [{"metadata": {"tags": ["parameters"]}, "source": ["a =\\n"]}]}', "is no Python, line 1: invalid"),
    ],
)
def test_a_file_that_is_no_notebook_is_refused(refused, tmp_path, text, said):
    path = tmp_path / "05_broken.ipynb"
    path.write_text(text)
    message = refused(path=path)
    assert "is not a notebook that can be run" in message
    assert said in message


def test_two_copies_never_share_a_name(refused, tmp_path):
    other = write_notebook(tmp_path / "other/03_fcn.ipynb")
    assert "would both be written to" in refused(str(other))


def test_a_notebook_is_never_overwritten(refused, tmp_path):
    notebook = write_notebook(tmp_path / "out2/03_fcn.ipynb")
    assert "would be overwritten" in refused("--out", str(tmp_path / "out2"), path=notebook)


def test_timeouts_and_jobs_are_positive(refused):
    refused("--timeout", "0")
    refused("--jobs", "0")


# -- the small parts -------------------------------------------------------------------------------


def test_notebooks_are_found_by_number_name_and_path(tmp_path):
    fcn = write_notebook(tmp_path / "03_fcn.ipynb")
    unet = write_notebook(tmp_path / "04_unet.ipynb")
    solved = write_notebook(tmp_path / "solutions/04_unet_solutions.ipynb")
    for word in ("3", "03", "03_fcn", "03_fcn.ipynb", str(fcn)):
        assert find_notebook(word, tmp_path) == fcn
    assert select([], solutions=False, folder=tmp_path) == [fcn, unet]
    assert select([], solutions=True, folder=tmp_path) == [fcn, unet, solved]
    assert select(["4", "3", "04_unet"], solutions=True, folder=tmp_path) == [unet, fcn, solved]
    with pytest.raises(Refusal, match="did you mean '04_unet'"):
        find_notebook("04_umet", tmp_path)
    with pytest.raises(Refusal, match="no notebooks"):
        select([], solutions=False, folder=tmp_path / "solutions/empty")


def test_declared_parameters_are_literals(tmp_path):
    source = 'PROFILE = "quick"  # the size\nRATE: float = 1e-3\nSHIFT = -2\nNOTHING = None'
    notebook = write_notebook(tmp_path / "01_x.ipynb", parameters=source)
    assert declared_parameters(notebook) == {"PROFILE": "quick", "RATE": 1e-3, "SHIFT": -2, "NOTHING": None}
    with pytest.raises(Refusal, match=r"TWICE = 2 \* 3 is computed"):
        declared_parameters(write_notebook(tmp_path / "02_x.ipynb", parameters="TWICE = 2 * 3"))


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [
        ("1e-3", 0.1, 1e-3),
        ("3", 0.1, 3.0),
        ("-4", 1, -4),
        ("true", False, True),
        ("0", True, False),
        ("1e-3", "text", "1e-3"),
        ("[1, 2.5]", [], [1, 2.5]),
        ("(4, 5)", (1, 2), (4, 5)),
        ("7", None, 7),
        ("seven", None, "seven"),
    ],
)
def test_values_take_the_type_of_the_default(text, default, value):
    parsed = parse_like(text, default)
    assert parsed == value
    assert type(parsed) is type(value)


def test_pairs_are_joined_as_papermill_writes_them():
    assert run.join_pairs(["3", "-p", "RATE", "-1", "--jobs", "2", "-p", "A=b"]) == [
        "3",
        "-p",
        "RATE=-1",
        "--jobs",
        "2",
        "-p",
        "A=b",
    ]
    assert run.split_pairs(["A=b=c", "B="]) == {"A": "b=c", "B": ""}


def test_a_relative_data_folder_counts_from_here_if_it_is_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COURSE_DATA", "sets")
    monkeypatch.setenv("COURSE_RUNS", "runs")
    assert run.kernel_environment()["COURSE_DATA"] == "sets", "paths.py takes it from the repository"
    assert run.kernel_environment()["COURSE_RUNS"] == str(tmp_path / "runs")
    (tmp_path / "sets").mkdir()
    assert run.kernel_environment()["COURSE_DATA"] == str(tmp_path / "sets")


def test_a_terminal_sees_bars(tmp_path):
    job = workers.Job("01_one", tmp_path / "01_one.ipynb", tmp_path / "out/01_one.ipynb", {}, 10)
    console = Console(force_terminal=True, width=100, record=True, file=io.StringIO())
    with run.Display(console, [job]) as display:
        display.on_progress(workers.Progress(job))
        display.on_progress(workers.Progress(job, done=3, cells=8))
        display.bars.refresh()
        display.on_result(workers.Result(job, "ok", 2.0))
    text = console.export_text()
    assert "3/8 cells" in text
    assert "8/8 cells" in text


def test_help_does_not_import_torch():
    code = "import sys; from course_lib.cli import app; app(['--help'], standalone_mode=False)"
    check = f"{code}; heavy = {{'torch', 'papermill', 'matplotlib'}} & set(sys.modules); assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", check], check=True, stdout=subprocess.DEVNULL)


def test_brackets_in_names_are_shown_as_they_are(tmp_path):
    console = Console(file=io.StringIO(), width=300)
    copy = tmp_path / "copy[b].ipynb"
    copy.write_text("")
    for name in ("a[x]", "a[/x]"):
        run.show_summary(console, [workers.Result(workers.Job(name, tmp_path, copy, {}, 1), "ok")], 1.0)
        assert name in console.file.getvalue()
    assert console.file.getvalue().count(copy.name) == 2
