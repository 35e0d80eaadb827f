"""Runs the explorers' modules without a page: in node, or else in a headless Chromium."""

import base64
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.browser.lab import browser, chromium

PLAIN = "(_, value) => (typeof value === 'bigint' ? value.toString() : value)"
"""How JSON holds what it has no form for."""


@contextmanager
def running(module: str, folder: Path) -> Iterator[Callable]:
    """Give `run(code, given)`: what lines of JavaScript return, with the module's names in `ep` and `given` a value.

    Args:
        module: Its text; it imports nothing.
        folder: An empty one.
    """
    node = shutil.which("node")
    if node:
        path, script = folder / "module.mjs", folder / "script.mjs"
        path.write_text(module, encoding="utf-8")

        def run(code, given=None):
            script.write_text(
                f"import * as ep from {json.dumps(path.as_uri())};\n"
                "import { readFileSync } from 'node:fs';\n"
                "const given = JSON.parse(readFileSync(0));\n"
                f"const result = await (async () => {{ {code} }})();\n"
                f"console.log(JSON.stringify(result, {PLAIN}));",
                encoding="utf-8",
            )
            done = subprocess.run(
                [node, str(script)], input=json.dumps(given), capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        yield run
    elif chromium():
        source = base64.b64encode(module.encode()).decode()
        with browser(folder / "chromium") as context:
            page = context.new_page()

            def run(code, given=None):
                return json.loads(
                    page.evaluate(
                        f"async (given) => {{ const ep = await import('data:text/javascript;base64,{source}');"
                        f"return JSON.stringify(await (async () => {{ {code} }})(), {PLAIN}); }}",
                        given,
                    )
                )

            yield run
    else:
        pytest.skip("neither node nor Chromium on the path: nothing here runs the explorers' modules")
