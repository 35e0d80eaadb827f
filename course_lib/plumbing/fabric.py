"""Lightning Fabric, imported in less time: wherever torchmetrics is installed it would import that too.

It asks for torchmetrics' version, for a detector of spikes in the loss that the course does not use; torchmetrics, with
the scipy.signal that it loads, takes longer to import than Fabric itself.
"""

import sys

_hidden = "torchmetrics" not in sys.modules
if _hidden:
    sys.modules["torchmetrics"] = None  # an import of it says now that it is not installed
try:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import MixedPrecision
    from lightning_fabric.plugins.environments import ClusterEnvironment, LightningEnvironment, SLURMEnvironment
    from lightning_fabric.strategies import DDPStrategy
finally:
    if _hidden:
        del sys.modules["torchmetrics"]

__all__ = ["ClusterEnvironment", "DDPStrategy", "Fabric", "LightningEnvironment", "MixedPrecision", "SLURMEnvironment"]
