"""The design, held: layers, requirements, and nothing that is true on one machine only."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from course_lib.notebook_tools.rules import ABSOLUTE_PATH
from course_lib.plumbing.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
IGNORED = {"build", "runs", "data", ".venv", ".git", "__pycache__", ".ipynb_checkpoints"}

FRONT = {
    "losses", "metrics", "calibration", "costs", "train", "plotting", "exercises", "receptive_field",
    "effective_field", "empirical_field", "implicit_background", "self_correction", "cvae", "latent", "ambiguity",
    "average_precision", "detection",
    "hard_examples", "sampling_points",
    "taxonomy",
}  # fmt: skip
"""What the course teaches, one idea a file; everything else has a folder."""

LEVELS = {
    "plumbing": 0,
    "data": 1,
    "losses metrics models": 2,
    "train": 3,  # and every other module of the front: the ideas of the lectures
    "experiments plotting": 4,
    "widgets notebook_tools cli": 5,
}
LEVEL = {room: level for rooms, level in LEVELS.items() for room in rooms.split()}
NETWORK = {
    "aiohttp", "ftplib", "http.client", "httpx", "pooch", "requests", "smtplib", "socket", "urllib.request",
    "urllib3",
}  # fmt: skip


def project_files() -> list[Path]:
    """Files in git or about to be; where there is no git, all but the ignored folders."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        paths = [ROOT / name for name in listed.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        paths = [
            path
            for path in ROOT.rglob("*")
            if path.relative_to(ROOT).parts[0] not in IGNORED and not IGNORED & set(path.parent.parts)
        ]
    return sorted(path for path in paths if path.is_file())


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Full names of all that a file imports, inside functions too; `from a import b` gives a and a.b."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports_any(path: Path, names: set[str]) -> set[str]:
    return {name for name in imported(path) for wanted in names if f"{name}.".startswith(f"{wanted}.")}


def room(dotted: str) -> str | None:
    """`course_lib.models.fcn` is in `models`, `course_lib.train` in `train`."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "course_lib" and len(parts) > 1 else None


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# -- layers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", modules("course_lib"), ids=name_of)
def test_no_room_imports_one_above_it(path):
    here = room(name_of(path))
    level = LEVEL.get(here, 3)
    above = sorted(
        name for name in imported(path) if (there := room(name)) and there != here and LEVEL.get(there, 3) > level
    )
    assert above == []


EXPERIMENTS = (
    "metric_names", "recipe", "recipes", "layers", "table", "check", "floors", "records", "refinement", "measures", "building", "strips", "tasks", "runs", "report", "evidence", "launch",
    "make_checkpoints", "make_floors", "make_strips",
)  # fmt: skip
"""From a table's row to a record and to what is reported of it: each may import those before it."""


@pytest.mark.parametrize("path", modules("course_lib/experiments"), ids=name_of)
def test_experiments_point_in_one_direction(path):
    def step(dotted: str) -> str:
        return dotted.removeprefix("course_lib.experiments").strip(".").split(".")[0]

    own = step(name_of(path))
    used = {step(name) for name in imported(path) if name.startswith("course_lib.experiments.")}
    before = EXPERIMENTS[: EXPERIMENTS.index(own) + 1] if own else ()
    assert used <= set(before)


def test_in_front_stands_what_the_course_teaches_and_nothing_else():
    front = {path.stem for path in (ROOT / "course_lib").glob("*.py")} - {"__init__"}
    assert front == FRONT


def test_only_widgets_imports_ipywidgets():
    found = [p for p in modules("course_lib") if imports_any(p, {"ipywidgets", "anywidget"})]
    assert [name_of(p) for p in found if room(name_of(p)) != "widgets"] == []


def test_only_what_draws_imports_matplotlib():
    allowed = re.compile(r"course_lib\.(plotting|plumbing\.dot_names|widgets)(\.|$)")
    found = [p for p in modules("course_lib") if imports_any(p, {"matplotlib"})]
    assert [name_of(p) for p in found if not allowed.match(name_of(p))] == []


def test_only_data_scripts_opens_the_network():
    paths = [*modules("course_lib"), *modules("benchmarks"), *modules("docs")]
    assert {name_of(p): names for p in paths if (names := imports_any(p, NETWORK))} == {}


def test_nobody_downloads_through_torch():
    calls = re.compile(r"load_state_dict_from_url|torch\.hub\.load\b|download\s*=\s*True|weights\s*=\s*[\"']DEFAULT")
    paths = [*modules("course_lib"), *modules("benchmarks")]
    assert [name_of(p) for p in paths if calls.search(p.read_text(encoding="utf-8"))] == []


def test_only_the_command_line_uses_data_scripts():
    found = [p for p in modules("course_lib") if imports_any(p, {"data_scripts"})]
    assert [name_of(p) for p in found if room(name_of(p)) != "cli"] == []


@pytest.mark.parametrize(
    "name",
    [
        "course_lib",
        "course_lib.plumbing.paths",
        "course_lib.cli",
        "course_lib.experiments.table",
        "course_lib.experiments.evidence",
    ],
)
def test_importing_is_light(name):
    code = f"import sys, {name}; print(sorted({{'torch', 'matplotlib', 'ipywidgets'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- requirements ----------------------------------------------------------------------------------


def ranges(lines: list[str]) -> dict[str, str]:
    found = {}
    for line in lines:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        assert name not in found, f"{name} is listed twice"
        found[name] = str(requirement.specifier)
    return found


def test_environment_states_the_ranges_of_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    extras = PROJECT["optional-dependencies"]
    assert ranges(pip) == ranges([*PROJECT["dependencies"], *extras["test"], *extras["site"]])
    assert f"python{PROJECT['requires-python']}" in conda


def locked() -> dict[str, list[Requirement]]:
    found: dict[str, list[Requirement]] = {}
    for line in LOCK.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            requirement = Requirement(line)
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def test_lock_satisfies_every_range():
    pins = locked()
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    for line in [*PROJECT["dependencies"], *extras]:
        wanted = Requirement(line)
        entries = pins.get(canonicalize_name(wanted.name))
        assert entries, f"{wanted.name} is not in requirements.lock: make lock"
        for entry in entries:
            (pin,) = entry.specifier
            assert pin.operator == "=="
            assert wanted.specifier.contains(pin.version, prereleases=True), f"{entry}: make lock"


def test_lock_names_no_place():
    assert re.findall(r"https?:|file:|git\+|^-.*| @ .*", LOCK, flags=re.MULTILINE) == []
    assert not ABSOLUTE_PATH.search(LOCK)


def test_lock_pins_every_package_here_once():
    for name, entries in locked().items():
        here = [entry for entry in entries if entry.marker is None or entry.marker.evaluate()]
        assert len(here) <= 1, name


# -- files -----------------------------------------------------------------------------------------


def test_no_file_names_a_place_on_one_machine():
    allowed = re.compile(r"/usr" r"/bin/(env|chromium|chromium-browser|google-chrome)\b")
    found = {}
    for path in project_files():
        if path.name == "Containerfile":  # it names places in the container that it makes
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        hits = ABSOLUTE_PATH.search(allowed.sub("", text))
        if hits:
            found[str(path.relative_to(ROOT))] = hits[0]
    assert found == {}


def test_no_large_file_is_committed():
    limit = 2_000_000
    assert [str(p.relative_to(ROOT)) for p in project_files() if p.stat().st_size > limit] == []


DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_of_the_documents_lead_somewhere(document):
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", text)
    links += re.findall(r"(?:src|href)=\"(?!https?:|mailto:|#)([^\"#]+)\"", text)
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_and_targets_that_the_documents_name_exist(document):
    text = document.read_text(encoding="utf-8")
    made_later = re.compile(r"(data|runs|build)(/|$)|\.venv|.*[*<>{}$=]|.*NN_|.*\.\.\.")
    named = {
        code
        for code in re.findall(r"`([\w.*<>{}/$-]+)`", text)
        if "/" in code or re.search(r"\.(py|md|toml|yml|ipynb|lock)$", code)
    }
    missing = sorted(
        code
        for code in named
        if not made_later.match(code)
        and not any((ROOT / folder / code).exists() for folder in (".", "course_lib", "notebooks"))
    )
    assert missing == []
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", text)) - targets == set()


def test_ci_runs_what_make_test_runs():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111, "not executable"
    assert "make test" in script.read_text(encoding="utf-8")


def test_the_training_loop_does_not_import_torchmetrics():
    """Fabric would, wherever it is installed, and each notebook would start two seconds later."""
    code = (
        "import sys; import course_lib.train; from lightning_fabric.utilities import imports; "
        "print(sorted({'torchmetrics', 'scipy.signal'} & set(sys.modules))); import torchmetrics; print('whole')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "whole"]
