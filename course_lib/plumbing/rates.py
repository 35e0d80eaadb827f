"""Learning rates that differ by layer: a module says `learning_rate_factor`, its parameters learn that much faster."""

from torch import nn


def learning_groups(model: nn.Module) -> list[dict[str, object]]:
    """Return the parameters that learn as groups for an optimiser, one for each factor, in the order of the model.

    Each group has "params" and, where it is not 1, "factor": the `learning_rate_factor` of the nearest module around
    the parameters that has one. A parameter that two modules share counts where it comes first.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    seen: set[int] = set()

    def collect(module: nn.Module, factor: float) -> None:
        factor = getattr(module, "learning_rate_factor", factor)
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                groups.setdefault(factor, []).append(parameter)
        for child in module.children():
            collect(child, factor)

    collect(model, 1.0)
    return [{"params": found} | ({} if factor == 1 else {"factor": factor}) for factor, found in groups.items()]
