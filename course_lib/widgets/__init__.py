"""Explorers to move by hand, each imported when it is first asked for: `from course_lib.widgets import NAME`."""

from importlib import import_module

HOMES = {
    "receptive_field_explorer": "receptive_field",
    "field_panels": "receptive_field",
    "transposed_explorer": "upsampling",
    "transposed_view": "upsampling",
    "unpooling_explorer": "upsampling",
    "unpooling_view": "upsampling",
    "street_patch": "upsampling",
    "simplex_explorer": "simplex",
    "simplex_view": "simplex",
    "alpha_explorer": "self_correction",
    "alpha_view": "self_correction",
    "metrics_explorer": "metrics",
    "metrics_view": "metrics",
    "beginnings": "metrics",
    "grouped_street": "metrics",
    "fcn_explorer": "fcn",
    "fcn_view": "fcn",
    "latent_explorer": "latent",
    "latent_view": "latent",
    "at_scales": "resolution",
    "resolution_explorer": "resolution",
    "resolution_view": "resolution",
    "evidence_maps": "position_sensitive",
    "voting_explorer": "position_sensitive",
    "voting_view": "position_sensitive",
    "read_picture": "sampling",
    "sampling_explorer": "sampling",
    "sampling_view": "sampling",
    "stills": "explorer",
}
"""The module of each name: explorers, the pure functions behind them, and `stills` of what these return."""

__all__ = list(HOMES)


def __getattr__(name: str) -> object:
    if name in HOMES:
        return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
    raise AttributeError(f"course_lib.widgets has no {name!r}; it has {', '.join(HOMES)}")
