"""Running notebooks without the block that nbclient meets on interactive widgets."""

import time
from pathlib import Path
from queue import Empty

from nbformat import NotebookNode

SLICE_SECONDS = 0.2
"""The longest single wait for a kernel's message."""


def patch_nbclient() -> None:
    """Cure, in this process, nbclient's block on ipywidgets' `Output` and `interact`.

    nbclient waits for a cell's reply once for the whole timeout, and where a widget's message arrives in
    between the wait may never end (nbclient issue 312). The asynchronous channels now wait in slices of
    `SLICE_SECONDS`. Call it before the notebook starts; calling it again changes nothing. Papermill runs
    on nbclient, so it is cured as well.
    """
    from jupyter_client.channels import AsyncZMQSocketChannel as Channel

    wait_once = Channel.get_msg
    if getattr(wait_once, "waits_in_slices", False):
        return

    async def get_msg(self: Channel, timeout: float | None = None) -> dict:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = SLICE_SECONDS if deadline is None else deadline - time.monotonic()
            try:
                return await wait_once(self, timeout=min(SLICE_SECONDS, max(0.0, left)))
            except Empty:
                if deadline is not None and time.monotonic() >= deadline:
                    raise

    get_msg.waits_in_slices = True
    Channel.get_msg = get_msg


def run_notebook(notebook: NotebookNode, folder: Path, cell_timeout: int = 600) -> None:
    """Execute every cell of `notebook` in place, with `folder` as the kernel's working folder.

    Raises nbclient's `CellExecutionError` where a cell fails and `CellTimeoutError` where one takes
    longer than `cell_timeout` seconds.
    """
    from nbclient import NotebookClient

    patch_nbclient()
    client = NotebookClient(
        notebook,
        timeout=cell_timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        coalesce_streams=True,
        record_timing=False,
    )
    client.execute()
