"""Where the course can be opened without an installation: made of one setting, the repository's address.

It stands in `pyproject.toml`, `[tool.course] repository`; while it is empty there are no buttons and no cell.
"""

import tomllib
from pathlib import Path

from course_lib.plumbing.paths import ROOT

COLAB = "https://colab.research.google.com/github/"
BOOTSTRAP = """# On Colab: fetch and install the course. Where it is installed, this cell does nothing.
import importlib.util, os, subprocess, sys

if importlib.util.find_spec("course_lib") is None:
    if not os.path.isdir("every-pixel"):
        subprocess.run(["git", "clone", "--depth", "1", "{address}", "every-pixel"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-e", "every-pixel"], check=True)
    sys.path.insert(0, os.path.abspath("every-pixel"))
    os.chdir("every-pixel/notebooks")"""


def repository(project: Path = ROOT / "pyproject.toml") -> str:
    """Return the address of the repository, such as "https://github.com/owner/every-pixel"; empty where none is set."""
    settings = tomllib.loads(project.read_text(encoding="utf-8")).get("tool", {}).get("course", {})
    return settings.get("repository", "").strip().removesuffix("/").removesuffix(".git")


def bootstrap(address: str) -> str:
    """Return the code that installs the course where a notebook was opened alone."""
    return BOOTSTRAP.replace("{address}", address)


def first_cell(colab: str) -> str:
    """Return the code that a notebook of the course needs first where Colab has opened it, for the button's address."""
    owner = colab.removeprefix(COLAB).split("/blob/")[0]
    return bootstrap(f"https://github.com/{owner}")


def launch_links(address: str, notebook: str, branch: str = "main") -> dict[str, str]:
    """Return {"Colab": ..., "Binder": ...} for a notebook, like "notebooks/03_fcn.ipynb"; empty without an address."""
    if not address.startswith("https://github.com/"):
        return {}
    owner = address.removeprefix("https://github.com/")
    return {
        "Colab": f"{COLAB}{owner}/blob/{branch}/{notebook}",
        "Binder": f"https://mybinder.org/v2/gh/{owner}/{branch}?labpath={notebook}",
    }
