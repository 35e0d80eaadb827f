"""A training's whole state in one file that is either the old one or the new one.

The file is safetensors: weights, buffers and the optimiser's tensors, with everything else (step, history,
what run it belongs to) as JSON in its header. Nothing in it is executed on loading.
"""

import json
import logging
import zlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from course_lib.plumbing.files import atomic_write

log = logging.getLogger(__name__)


class CheckpointError(Exception):
    """A checkpoint that cannot be used. The message names the file and what to do."""


def save_weights(path: Path, model: nn.Module, *, about: dict | None = None, dtype: torch.dtype | None = None) -> None:
    """Write the model's weights and buffers to `path`, with `about` (JSON values) in the header.

    Args:
        dtype: Stores floating-point tensors in this type (torch.float16 halves a committed file).
    """
    tensors = {name: _plain(value, dtype) for name, value in model.state_dict().items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata=_summed(tensors, {"about": json.dumps(about or {})}))


def load_weights(path: Path, model: nn.Module) -> dict:
    """Copy the weights in `path` into `model` and return the metadata that `save_weights` stored with them.

    Raises:
        CheckpointError: Where the file is missing, damaged, or of another architecture.
    """
    tensors, header = _read(path)
    require_architecture(path, tensors, model)
    model.load_state_dict(tensors)  # half-precision values are widened to the model's own type
    return json.loads(header.get("about", "{}"))


def require_architecture(path: Path, tensors: dict[str, Tensor], model: nn.Module) -> None:
    """Raise CheckpointError where the tensors of the file `path` are not those of `model`, by name and shape."""
    wanted = model.state_dict()
    wrong = [name for name in wanted if name not in tensors or tensors[name].shape != wanted[name].shape]
    extra = [name for name in tensors if name not in wanted]
    if wrong or extra:
        raise CheckpointError(
            f"{path} holds another architecture: {len(wrong)} tensors missing or of another shape "
            f"(first: {wrong[:1]}), {len(extra)} unknown (first: {extra[:1]})"
        )


def save_training(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict) -> None:
    """Write model, optimiser and `progress` (JSON values) to `path`; the file before it stays beside it.

    Raises:
        FloatingPointError: Where a weight is not finite; nothing is written.
    """
    require_finite(model)
    tensors = {f"model.{name}": _plain(value) for name, value in model.state_dict().items()}
    state = optimizer.state_dict()
    plain: dict[str, dict] = {}
    for index, slots in state["state"].items():
        for slot, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{slot}"] = _plain(value)
            else:
                plain.setdefault(str(index), {})[slot] = value
    header = {"progress": progress, "groups": state["param_groups"], "plain": plain}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata=_summed(tensors, {"training": json.dumps(header)}))
        if path.exists():  # the last but one survives a disk that damages the last
            path.replace(previous(path))


def require_finite(model: nn.Module) -> None:
    """Raise FloatingPointError, naming the first one, where a weight or buffer is not finite."""
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise FloatingPointError(f"{name} holds values that are not finite")


def load_training(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, belongs_to: str = "") -> dict | None:
    """Restore what `save_training` wrote and return its `progress`; None where there is no checkpoint.

    A damaged file is set aside as `<name>.damaged` and the one before it is used.

    Raises:
        CheckpointError: Where `progress["belongs_to"]` is not `belongs_to`, or the file is not of a training, or of
            another architecture or optimiser; the model stays as it is.
    """
    for candidate in (path, previous(path)):
        if not candidate.exists():
            continue
        if candidate.is_dir():
            raise CheckpointError(f"{candidate} is a folder: a checkpoint is a file")
        try:
            tensors, header = _read(candidate)
        except CheckpointError as error:
            aside = candidate.with_name(candidate.name + ".damaged")
            candidate.replace(aside)
            log.warning("%s; kept as %s, going on from the checkpoint before it", error, aside.name)
            continue
        if "training" not in header:
            raise CheckpointError(f"{candidate} holds weights, but no training to go on with")
        training = json.loads(header["training"])
        owner = training["progress"].get("belongs_to", "")
        if owner != belongs_to:
            raise CheckpointError(
                f"{candidate} is of another run ({owner!r}, this one is {belongs_to!r}): move it away or "
                "choose another checkpoint"
            )
        weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
        require_architecture(candidate, weights, model)
        if [len(group["params"]) for group in training["groups"]] != [
            len(group["params"]) for group in optimizer.param_groups
        ]:
            raise CheckpointError(f"{candidate} is of an optimiser with other groups of weights")
        model.load_state_dict(weights)
        state: dict[int, dict] = {int(index): dict(slots) for index, slots in training["plain"].items()}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, slot = name.split(".", 2)
                # a copy: the tensors read are views of the file, which may be deleted
                state.setdefault(int(index), {})[slot] = value.clone()
        optimizer.load_state_dict({"state": state, "param_groups": training["groups"]})
        _order_as_the_weights(optimizer)
        return training["progress"]
    return None


def _order_as_the_weights(optimizer: torch.optim.Optimizer) -> None:
    """Give the state of each weight its memory order: fused kernels read both as if they had one."""
    for weight, slots in optimizer.state.items():
        for slot, value in slots.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                slots[slot] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def previous(path: Path) -> Path:
    """Return where the checkpoint before the newest one is kept."""
    return path.with_name("previous-" + path.name)


def _plain(value: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    value = value.detach().cpu().contiguous().clone()
    return value.to(dtype) if dtype and value.is_floating_point() else value


def _summed(tensors: dict[str, Tensor], header: dict[str, str]) -> dict[str, str]:
    """Return the header with a sum over it and all values: a damaged disk may leave a file that can be read."""
    total = zlib.crc32(repr(sorted(header.items())).encode())
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy(), zlib.crc32(name.encode(), total))
    return header | {"crc32": str(total)}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.exists():
        raise CheckpointError(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = file.metadata() or {}
        given = header.pop("crc32", None)  # none in files from before
        if given is not None and _summed(tensors, header)["crc32"] != given:
            raise ValueError("its sum is another")
        return tensors, header
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error})") from error
