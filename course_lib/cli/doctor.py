"""`course doctor`: is this machine ready for the course, and if not, what to type next."""

import importlib.util
import os
import platform
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from course_lib.cli.selection import NOTEBOOKS, in_order, no_home
from course_lib.plumbing.files import why_not_writable
from course_lib.plumbing.paths import ROOT, build_root, data_root, results_root, runs_root
from course_lib.plumbing.processes import cores

GIB = 2**30
COLOURS = {"OK": "green", "WARN": "yellow", "FAIL": "bold red"}


@dataclass(frozen=True)
class Check:
    """One line: `state` is OK, WARN or FAIL; `command` is what to type next, where that helps."""

    state: str
    name: str
    found: str
    command: str = ""


def check_system() -> Iterator[Check]:
    """Check the operating system."""
    good = platform.system() in ("Linux", "Darwin")
    text = f"{platform.system()}: make, the tests and clusters need Linux, macOS or WSL"
    yield Check(
        "OK" if good else "WARN", "system", platform.system() if good else text, "" if good else "wsl --install"
    )


def check_home() -> Iterator[Check]:
    """Check the home folder, where Jupyter keeps its files."""
    mend = f"mkdir -p {build_root() / 'home'} && export HOME={build_root() / 'home'}"
    if no_home():
        yield Check("FAIL", "home", "HOME is not set, and the system knows no home folder of this user", mend)
    elif why := why_not_writable(Path.home()):
        yield Check("WARN", "home", f"{why}: Jupyter keeps nothing there", mend)
    else:
        yield Check("OK", "home", str(Path.home()))


FOLDERS = {
    "COURSE_DATA": ("data sets", data_root, "WARN"),
    "COURSE_RUNS": ("checkpoints", runs_root, "FAIL"),
    "COURSE_BUILD": ("executed notebooks, site, quick records", build_root, "FAIL"),
    "COURSE_RESULTS": ("records", results_root, "FAIL"),
}
"""Variable -> what lies in the folder it names, that folder, and the state of one that cannot be written to."""


def check_folders() -> Iterator[Check]:
    """Check the folders that are written to, and the variables that name them."""
    for variable, (what, folder, state) in FOLDERS.items():
        try:
            why = why_not_writable(folder())
        except OSError as error:
            why = str(error)
        mend = f"export {variable}=$HOME/every-pixel/{folder().name}" if why else ""
        yield Check(state if why else "OK", variable, f"{what}: {why or folder()}", mend)
    own, shipped = results_root(), ROOT / "results"
    if any(shipped.glob("*/*.json")) and not any(own.glob("*/*.json")):
        text = f"{own} has no records: the labs' tables, and notebook 30, are empty"
        yield Check("WARN", "records", text, f"mkdir -p {own} && cp -r {shipped}/. {own}")


def check_settings() -> Iterator[Check]:
    """Check what else the environment says: a backend of figures, a precision, a job of Slurm, the user root."""
    backend, precision = os.environ.get("MPLBACKEND", ""), os.environ.get("COURSE_PRECISION", "")
    if backend and "inline" not in backend:
        text = f"{backend}: Jupyter shows no figures, unless it is started by course lab or course run"
        yield Check("WARN", "MPLBACKEND", text, "unset MPLBACKEND")
    if precision not in ("", "bf16", "fp32"):
        yield Check("FAIL", "COURSE_PRECISION", f"{precision} is neither bf16 nor fp32", "unset COURSE_PRECISION")
    if job := os.environ.get("SLURM_JOB_ID"):
        text = f"this is inside job {job} and ends with it; --on slurm hands on none of its settings"
        yield Check("WARN", "Slurm", text, "exit")
    if is_root():
        yield Check("WARN", "user", "root: JupyterLab refuses to start without an option", LAB_AS_ROOT)


LAB_AS_ROOT = "course lab --allow-root"


def is_root() -> bool:
    """Return whether this is the user root."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def install_command(*requirements: str) -> str:
    """Return the command that installs these requirements here."""
    quoted = " ".join(f'"{requirement}"' for requirement in requirements)
    tool = "python -m pip" if importlib.util.find_spec("pip") else "uv pip"
    return f"{tool} install {quoted}"


def project() -> dict:
    """Return the table `project` of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def check_python() -> Iterator[Check]:
    """Check the version of Python."""
    from packaging.specifiers import SpecifierSet

    wanted, found = project()["requires-python"], platform.python_version()
    good = SpecifierSet(wanted).contains(found, prereleases=True)
    command = "" if good else "uv venv --python 3.12 .venv && make course"
    yield Check("OK" if good else "FAIL", "Python", f"{found} (needs {wanted})", command)


def unmet(requirements: list[str]) -> list[tuple[str, str]]:
    """The requirements that do not hold here, each with what there is instead."""
    from packaging.requirements import Requirement

    problems = []
    for line in requirements:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            problems.append((line, "missing"))
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            problems.append((line, version))
    return problems


def check_packages() -> Iterator[Check]:
    """Check the packages that the course needs."""
    from packaging.requirements import Requirement

    for line in project()["dependencies"]:
        requirement = Requirement(line)
        for _, found in unmet([line]):
            text = f"{found} (needs {requirement.specifier})"
            yield Check("FAIL", requirement.name, text, install_command(line))
        if not unmet([line]):
            version = metadata.version(requirement.name)
            yield Check("OK", requirement.name, f"{version} (needs {requirement.specifier})")


def check_extras() -> Iterator[Check]:
    """Check the packages of the optional parts."""
    from packaging.requirements import Requirement

    for extra, requirements in project()["optional-dependencies"].items():
        problems = unmet(requirements)
        if not problems:
            yield Check("OK", f"extra {extra}", ", ".join(Requirement(line).name for line in requirements))
            continue
        text = "; ".join(f"{line}: {found}" for line, found in problems)
        command = install_command(*(line for line, _ in problems))
        yield Check("WARN", f"extra {extra}", text, command)


def check_cpu() -> Iterator[Check]:
    """Check the processor."""
    import torch

    from course_lib.plumbing import machine

    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    features = {
        "bf16": machine.cpu_has_bf16(),
        "AVX2": has.get("avx2"),
        "AVX-512": has.get("avx512_f"),
        "AMX": has.get("amx_tile"),
    }
    good = ", ".join(name for name, there in features.items() if there) or "no vector features known"
    missing = ", ".join(name for name, there in features.items() if not there)
    text = f"{machine.cpu_name()}, {cores()} cores: {good}" + (f" (no {missing})" if missing else "")
    yield Check("OK" if cores() > 1 else "WARN", "CPU", text)


def check_bf16() -> Iterator[Check]:
    """A short scan of this processor's bfloat16 kernels: seconds, at most."""
    import torch

    from course_lib.plumbing import machine, precision

    if not machine.cpu_has_bf16():
        yield Check("OK", "bfloat16", "not in this processor: networks are trained in float32")
        return
    found = precision.scan(precision.common_layers(), torch.bfloat16)
    wrong = {name: errors for name, errors in found.items() if precision.is_wrong(errors)}
    if not wrong:
        yield Check("OK", "bfloat16", f"all of {len(found)} convolutions agree with float32")
        return
    name, errors = next(iter(wrong.items()))
    text = (
        f"{len(wrong)} of {len(found)} convolutions are wrong on this processor ({name}: "
        f"{precision.describe_errors(errors)}); the course trains such layers in float32"
    )
    yield Check("WARN", "bfloat16", text, "python -m benchmarks.bf16_convolutions")


def check_gpu() -> Iterator[Check]:
    """Check the graphics cards."""
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            name = torch.cuda.get_device_name(index)
            memory = torch.cuda.get_device_properties(index).total_memory / GIB
            yield Check("OK", "GPU", f"{name}, {memory:.0f} GiB")
    elif shutil.which("nvidia-smi"):
        text = f"nvidia-smi is here, but torch {torch.__version__} cannot use the GPU"
        yield Check("WARN", "GPU", text, "nvidia-smi")
    else:
        yield Check("OK", "GPU", "none: the profiles quick and laptop need none")


def check_gpu_speed() -> Iterator[Check]:
    """Measure the first graphics card in each precision: a second, at most."""
    import torch

    from course_lib.plumbing import machine

    if not torch.cuda.is_available():
        return
    device = torch.device("cuda", 0)
    precision = machine.best_precision(device)
    found = [
        f"{name} {rates['product']:.0f} / {rates['convolution']:.0f}" for name, rates in machine.speeds(device).items()
    ]
    text = f"trains in {precision}; TFLOP/s of a 4096x4096 product / a 3x3 convolution: {', '.join(found)}"
    yield Check("OK", "GPU precision", text)


def check_memory() -> Iterator[Check]:
    """Check the memory."""
    import psutil

    memory = psutil.virtual_memory()
    text = f"{memory.total / GIB:.1f} GiB, {memory.available / GIB:.1f} GiB free"
    low = memory.available < 2 * GIB
    yield Check(
        "WARN" if low else "OK",
        "memory",
        text + (" (a notebook takes up to 2 GiB: close programs, or one at a time)" if low else ""),
        "course run --jobs 1" if low else "",
    )


def check_disk() -> Iterator[Check]:
    """Check the free room on the disk."""
    free = shutil.disk_usage(ROOT).free / GIB
    text = f"{free:.1f} GiB free where the course lies"
    if free < 0.5:
        yield Check("FAIL", "disk", f"{text}: executed notebooks need 0.5 GiB", f"du -sh {ROOT}/*")
    else:
        yield Check("OK" if free > 5 else "WARN", "disk", text)


def check_data() -> Iterator[Check]:
    """Check which data sets are here."""
    from course_lib.data.registry import DATASETS

    for info in DATASETS.values():
        if not info.folder:
            yield Check("OK", info.title, "built in")
        elif info.present(data_root()):
            yield Check("OK", info.title, f"in {data_root() / info.folder}")
        else:
            yield Check("WARN", info.title, f"not here; only for real data ({info.size_on_disk})", info.get)
    if any((data_root() / "weights").glob("*.pth")):
        yield Check("OK", "pretrained weights", f"in {data_root() / 'weights'}")
    else:
        text = "not here: backbones are trained from scratch"
        yield Check("WARN", "pretrained weights", text, "course data get weights")


def check_kernel() -> Iterator[Check]:
    """Check the kernel that notebooks start."""
    if no_home():  # `check_home` says what to do
        return
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    command = "python -m ipykernel install --sys-prefix"
    try:
        spec = KernelSpecManager(ensure_native_kernel=False).get_kernel_spec("python3")
    except NoSuchKernel:
        yield Check("FAIL", "kernel", "Jupyter knows no kernel python3", command)
        return
    program = Path(spec.argv[0])
    # a bare "python" becomes the interpreter that Jupyter runs in
    here = not program.is_absolute() or program.parent == Path(sys.executable).parent
    if here:
        yield Check("OK", "kernel", f"python3 runs {sys.executable}")
    else:
        text = f"python3 ({spec.resource_dir}) runs {program}, not {sys.executable}"
        yield Check("FAIL", "kernel", text, command)


def check_notebooks() -> Iterator[Check]:
    """Check that the notebooks are here."""
    count = len(in_order(NOTEBOOKS))
    if count:
        yield Check("OK", "notebooks", f"{count} in {NOTEBOOKS}")
    else:
        text = f"none in {NOTEBOOKS}: install from the course's repository"
        yield Check("FAIL", "notebooks", text, install_command("--editable=."))


def check_chromium() -> Iterator[Check]:
    """Check for a browser that the tests can drive."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found:
        yield Check("OK", "Chromium", found)
    else:
        text = "not found: only the tests of widgets need it"
        yield Check("WARN", "Chromium", text, "python -m playwright install chromium")


CHECKS: dict[str, Callable[[], Iterator[Check]]] = {
    "Python": check_python,
    "system": check_system,
    "home": check_home,
    "folders": check_folders,
    "settings": check_settings,
    "packages": check_packages,
    "extras": check_extras,
    "CPU": check_cpu,
    "bfloat16": check_bf16,
    "GPU": check_gpu,
    "GPU precision": check_gpu_speed,
    "memory": check_memory,
    "disk": check_disk,
    "data": check_data,
    "kernel": check_kernel,
    "notebooks": check_notebooks,
    "Chromium": check_chromium,
}


def all_checks() -> Iterator[Check]:
    """Every check's lines; a check that breaks is a FAIL of its own."""
    for name, check in CHECKS.items():
        try:
            yield from check()
        except Exception as error:
            yield Check("FAIL", name, f"{type(error).__name__}: {error}", "make course")


def doctor() -> None:
    """Check this machine, line by line; exit code 1 if something must be mended first.

    OK: fine. WARN: the course runs, something optional is missing. FAIL: type the command behind the arrow.
    """
    console = Console(highlight=False)
    failed = 0
    for check in all_checks():
        failed += check.state == "FAIL"
        line = Text(f"{check.state:4}", style=COLOURS[check.state])
        line.append(f"  {check.name:22} {check.found}", style="default")
        if check.command:
            line.append(f"  -> {check.command}", style="bold")
        console.print(line, soft_wrap=True)
    if failed:
        console.print(f"\n{failed} to mend: type the commands behind the arrows, then course doctor again")
        raise typer.Exit(1)
    console.print(f"\nReady. Next: {LAB_AS_ROOT if is_root() else 'course lab'}")
