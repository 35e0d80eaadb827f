"""Trainings that the checks make once: `make test` executes every notebook twice, with papermill and with nbval.

Where the checks set COURSE_REUSE=1, the end of each training is kept under `$COURSE_RUNS/reused`, and the same
training later is loaded. The same: weights, images, loss and settings by their content, the sources of the
library, torch's version and the number of threads. Without that variable nothing is kept and nothing loaded.
"""

import functools
import hashlib
import inspect
import json
import logging
import os
import types
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from course_lib.plumbing.devices import AutoPrecision
from course_lib.plumbing.fabric import Fabric
from course_lib.plumbing.files import atomic_write
from course_lib.plumbing.paths import ROOT, runs_root
from course_lib.plumbing.precision import keep_in_fp32, kept_in_fp32, release

log = logging.getLogger(__name__)

PLAIN = bool | int | float | complex | str | bytes | range | slice | Path | torch.dtype | torch.device
WATCHED = ("on_step", "should_stop", "checkpoints.path")
"""Arguments of `fit` by which somebody follows a training: such a one is always made.

So is one with a measure that is not the library's: whatever else a notebook's does would not be done.
"""
WITHOUT_EFFECT = {"workers", "show_progress", "description", "checkpoints", "fabric", "on_step", "should_stop"}


class NotComparable(Exception):
    """A value that has no fingerprint."""


@functools.cache
def library() -> str:
    """Return the sha256 of all sources of the library and of torch's version."""
    found = hashlib.sha256(torch.__version__.encode())
    for path in sorted((ROOT / "course_lib").rglob("*.py")):
        found.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


class Fingerprint:
    """The sha256 of values by their content: tensors by their bits, a notebook's functions by their code.

    What a library defines counts by its name, because `library` covers its code.
    """

    def __init__(self, *values: object):
        self.sha, self.seen = hashlib.sha256(), {}
        self.add(*values)

    def __str__(self) -> str:
        return self.sha.hexdigest()

    def add(self, *values: object) -> None:
        """Add values and all that they hold.

        Raises:
            NotComparable: for a value whose content cannot be read, such as an open file.
        """
        for value in values:
            if value is None or isinstance(value, PLAIN):
                self.sha.update(f"{value!r},".encode())
            elif id(value) in self.seen:
                self.sha.update(f"={self.seen[id(value)][0]},".encode())
            else:
                self.seen[id(value)] = len(self.seen), value  # held, so that no other value gets its id
                self.sha.update(f"<{type(value).__qualname__} ".encode())
                self._add_parts(value)
                self.sha.update(b">")

    def _add_parts(self, value: object) -> None:
        if isinstance(value, np.ndarray | Tensor):
            array = torch.as_tensor(value).detach().cpu().contiguous()
            self.add(array.dtype, *array.shape)
            self.sha.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, dict | types.MappingProxyType):
            self.add(*(part for item in value.items() for part in item))
        elif isinstance(value, list | tuple):
            self.add(*value)
        elif isinstance(value, set | frozenset):
            self.add(*sorted(map(repr, value)))
        elif isinstance(value, functools.partial):
            self.add(value.func, value.args, value.keywords)
        elif isinstance(value, types.MethodType):
            self.add(value.__func__, value.__self__)
        elif isinstance(value, types.ModuleType | types.BuiltinFunctionType | types.FunctionType | type):
            self._add_named(value)
        elif isinstance(value, torch.Generator):
            self.add(value.get_state())
        elif isinstance(value, property | staticmethod | classmethod):
            self.add(getattr(value, "fget", None) or value.__func__)
        elif hasattr(value, "__dict__"):
            self.add(type(value), vars(value))
        else:
            raise NotComparable(f"a {type(value).__qualname__} cannot be compared")

    def _add_named(self, value: object) -> None:
        self.add(getattr(value, "__module__", None), getattr(value, "__qualname__", value.__name__))
        in_notebook = getattr(value, "__module__", None) == "__main__"
        if isinstance(value, types.FunctionType):
            self.add([cell.cell_contents for cell in value.__closure__ or ()])
            self.add(value.__defaults__, value.__kwdefaults__)
            if in_notebook:
                self._add_code(value.__code__, value.__globals__)
        elif in_notebook and isinstance(value, type):
            self.add(value.__bases__)
            self.add(*(part for name, part in vars(value).items() if not name.startswith("__") or callable(part)))

    def _add_code(self, code: types.CodeType, names: dict[str, object]) -> None:
        self.sha.update(code.co_code)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._add_code(constant, names)
            else:
                self.add(constant)
        for name in code.co_names:
            self.add(name, names.get(name))


def made_once(fit: Callable) -> Callable:
    """Decorate `course_lib.train.fit`: with COURSE_REUSE=1 the same training is made once and then loaded."""

    @functools.wraps(fit)
    def wrapped(model: nn.Module, dataset: object, **options: object) -> object:
        path = _place(fit, model, dataset, options) if os.environ.get("COURSE_REUSE") == "1" else None
        if path is None:
            return fit(model, dataset, **options)
        if not path.exists():
            history = fit(model, dataset, **options)
            _keep(path, model, history, options.get("fabric"))
            return history
        objective = options.get("objective")
        if hasattr(objective, "at_step"):
            objective.at_step(options["steps"] - 1)
        return inspect.signature(fit).return_annotation(**_load(path, model, options.get("fabric")))

    return wrapped


def _place(fit: Callable, model: nn.Module, dataset: object, options: dict[str, object]) -> Path | None:
    """Return the file of this training; None where it is to be made anyway."""
    fabric = options.get("fabric")
    for name, _, part in (watched.partition(".") for watched in WATCHED):
        given = options.get(name)
        if (getattr(given, part, None) if part else given) is not None:
            return None
    measure = getattr(options.get("checks"), "measure", None)
    if measure is not None and not str(measure.__module__).startswith("course_lib."):
        return None
    if fabric is not None and fabric.world_size > 1:
        return None
    defaults = {name: parameter.default for name, parameter in inspect.signature(fit).parameters.items()}
    settings = {name: value for name, value in (defaults | options).items() if name not in WITHOUT_EFFECT}
    auto = fabric is not None and isinstance(fabric._precision, AutoPrecision)  # set by each training for itself
    precision = "auto" if auto else fabric and str(fabric._precision.precision)
    where = os.environ.get("COURSE_PRECISION"), precision, fabric and fabric.device
    try:
        pictures = [str(Fingerprint(dataset[index])) for index in range(len(dataset))]
        order = type(dataset) if hasattr(dataset, "order") else None
        key = Fingerprint(library(), torch.get_num_threads(), where, model, pictures, order, sorted(settings.items()))
    except NotComparable as reason:
        log.warning("a training is made although COURSE_REUSE is set: %s", reason)
        return None
    return runs_root() / "reused" / f"{key}.safetensors"


def _keep(path: Path, model: nn.Module, history: object, fabric: Fabric | None) -> None:
    tensors = {f"model.{name}": value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    tensors["random"] = torch.get_rng_state()
    with atomic_write(path) as temporary:
        left = {"history": asdict(history), "in_fp32": kept_in_fp32(model)}
        left["precision"] = None if fabric is None else str(fabric._precision.precision)
        save_file(tensors, temporary, metadata={name: json.dumps(value) for name, value in left.items()})


def _load(path: Path, model: nn.Module, fabric: Fabric | None) -> dict[str, object]:
    """Leave model, random numbers and precision as `fit` left them; return the fields of its history."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        left = {name: json.loads(text) for name, text in file.metadata().items()}
    torch.set_rng_state(tensors.pop("random"))
    model.to(memory_format=torch.channels_last)
    model.load_state_dict({name.removeprefix("model."): value for name, value in tensors.items()})
    model.zero_grad(set_to_none=True)
    model.train()
    release(model)
    for name in left["in_fp32"]:
        keep_in_fp32(model.get_submodule(name))
    if fabric is not None and isinstance(fabric._precision, AutoPrecision):
        fabric._precision.precision = left["precision"]
    return left["history"]
