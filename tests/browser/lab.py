"""JupyterLab or Notebook 7 in a headless Chromium, for tests/browser and the benchmark of the widgets.

The server works on a temporary folder with settings of its own: nothing of the user's is read or written, the
notebooks are copies. Needs the extra `test` (Playwright, Notebook 7) and a Chromium on the path.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from course_lib.cli.run import kernel_environment

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Locator, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SETTINGS = {
    # every cell is in the page, also those off the screen; a notebook gets its kernel unasked
    "notebook-extension/tracker": {"windowingMode": "none", "autoStartDefaultKernel": True},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
START_SECONDS = 60
FINISHED = """() => {
    const outputs = [...document.querySelectorAll('[data-mime-type="application/vnd.jupyter.stderr"]')];
    const failed = outputs.find(one => /^-{20,}\\s.*Traceback \\(most recent call/s.test(one.innerText.trim()));
    if (failed) return failed.innerText;
    const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')];
    return prompts.length && prompts.every(prompt => /^\\[\\d+\\]:$/.test(prompt.innerText.trim())) && 'done';
}"""


def chromium() -> str | None:
    """The path of a Chromium or Chrome; None where there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def browser(profile: Path, **options: object) -> Iterator["BrowserContext"]:
    """A headless Chromium that keeps its profile in the folder `profile`.

    options  of Playwright's launch_persistent_context, such as viewport or color_scheme
    """
    from playwright.sync_api import sync_playwright

    options.setdefault("viewport", {"width": 1400, "height": 1000})
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile), executable_path=chromium(), headless=True, args=list(FLAGS), **options
        )
        try:
            yield context
        finally:
            context.close()


class Server:
    """A Jupyter server on `folder`; `with Server(folder) as server:` starts and ends it.

    url, token  where it listens; both JupyterLab (/lab) and Notebook 7 (/notebooks) are there
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.work = folder / "work"

    def __enter__(self) -> Self:
        self.work.mkdir(parents=True)
        places = {
            name: self.folder / name.lower()
            for name in (
                "JUPYTER_CONFIG_DIR",
                "JUPYTER_DATA_DIR",
                "JUPYTER_RUNTIME_DIR",
                "IPYTHONDIR",
                "JUPYTERLAB_SETTINGS_DIR",
                "JUPYTERLAB_WORKSPACES_DIR",
            )
        }
        for name, values in SETTINGS.items():
            plugin = places["JUPYTERLAB_SETTINGS_DIR"] / "@jupyterlab" / name
            plugin.parent.mkdir(parents=True, exist_ok=True)
            plugin.with_suffix(".jupyterlab-settings").write_text(json.dumps(values))
        command = [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--allow-root",
            f"--ServerApp.root_dir={self.work}",
            "--ServerApp.port_retries=100",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            "--LabApp.news_url=None",
            # where this process is killed, the server ends by itself some minutes later
            "--MappingKernelManager.cull_idle_timeout=600",
            "--MappingKernelManager.cull_connected=True",
            "--ServerApp.shutdown_no_activity_timeout=900",
        ]
        environment = kernel_environment() | {name: str(place) for name, place in places.items()}
        environment.pop("MPLBACKEND", None)  # the notebooks draw inline, whatever the caller does
        self.log = (self.folder / "server.log").open("w")
        self.process = subprocess.Popen(
            command, env=environment, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            self._wait(places["JUPYTER_RUNTIME_DIR"] / f"jpserver-{self.process.pid}.json")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait(self, runtime: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                found = json.loads(runtime.read_text())
            except (OSError, ValueError):
                time.sleep(0.1)
                continue
            self.url, self.token = found["url"].rstrip("/"), found["token"]
            return
        said = Path(self.log.name).read_text()[-2000:]
        raise RuntimeError(f"JupyterLab did not start within {START_SECONDS} s:\n{said}")

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)  # the kernels end with it
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def open(self, context: "BrowserContext", notebook: Path, interface: str = "lab") -> "OpenNotebook":
        """A copy of `notebook` in a new page, its kernel ready; nothing has run yet.

        interface  "lab" (JupyterLab) or "notebook" (Notebook 7)
        """
        content = json.loads(notebook.read_text(encoding="utf-8"))
        for cell in content["cells"]:
            if cell["cell_type"] == "code":
                cell.update(execution_count=None, outputs=[])  # a stored number is no sign of a run
        (self.work / notebook.name).write_text(json.dumps(content), encoding="utf-8")
        page = context.new_page()
        path = {
            "lab": f"lab/workspaces/auto-{notebook.stem}/tree/{notebook.name}?reset&token={self.token}",
            "notebook": f"notebooks/{notebook.name}?token={self.token}",
        }[interface]
        page.goto(f"{self.url}/{path}")
        page.wait_for_selector(".jp-NotebookPanel .jp-Notebook", timeout=1000 * START_SECONDS)
        opened = OpenNotebook(self, page, notebook.name)
        opened.wait_for_kernel()
        return opened


class OpenNotebook:
    """A notebook in a page. `complaints` collects the errors that scripts of the page raise."""

    def __init__(self, server: Server, page: "Page", name: str):
        self.server, self.page, self.name = server, page, name
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _session(self) -> dict | None:
        address = f"{self.server.url}/api/sessions?token={self.server.token}"
        sessions = self.page.request.get(address).json()
        return next((one for one in sessions if one["path"] == self.name), None)

    def wait_for_kernel(self) -> None:
        """Until the page is connected to an idle kernel: what the page itself shows comes too early."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            session = self._session()
            kernel = session["kernel"] if session else {}
            if kernel.get("connections", 0) > 0 and kernel["execution_state"] == "idle":
                return
            time.sleep(0.2)
        raise TimeoutError(f"{self.name} has no kernel after {START_SECONDS} s")

    def run_all(self, seconds: float = 180) -> Self:
        """Run > Run All Cells, until each cell has its number. Raises AssertionError where one fails."""
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        verdict = self.page.wait_for_function(FINISHED, timeout=1000 * seconds, polling=200)
        said = str(verdict.json_value())
        assert said == "done", f"{self.name}: {said}"
        return self

    def end_kernel(self) -> None:
        """End the notebook's kernel behind its back, as a crash or a server's limit does."""
        session = self._session()
        if session is None:
            raise RuntimeError(f"{self.name} has no kernel to end")
        address = f"{self.server.url}/api/kernels/{session['kernel']['id']}?token={self.server.token}"
        self.page.request.delete(address)

    def find(self, selector: str) -> "Locator":
        return self.page.locator(selector)

    def close(self) -> None:
        """Shut the kernel down and close the page."""
        if session := self._session():
            self.page.request.delete(f"{self.server.url}/api/sessions/{session['id']}?token={self.server.token}")
        self.page.close()


def widget_notebook(path: Path, *cells: str) -> Path:
    """A notebook of these code cells, written to `path`."""
    import nbformat

    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    nbformat.write(notebook, path)
    return path
