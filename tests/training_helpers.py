"""What several tests of networks do."""

import torch
from torch import Tensor, nn

from course_lib.experiments.recipes import TrainRecipe
from course_lib.losses import cross_entropy


def learn_by_heart(model: nn.Module, images: Tensor, classes: int, steps: int) -> list[float]:
    """Train on `images` (2, 3, 64, 64) with random labels in quarters; return the loss of each step."""
    labels = torch.randint(classes, (2, 2, 2)).repeat_interleave(32, 1).repeat_interleave(32, 2)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def street_recipe(**settings: object) -> TrainRecipe:
    """Return the recipe of a tiny training on generated streets of 32x48; `settings` come on top of it."""
    tiny = {"table": "test", "row": "plain", "profile": "laptop", "seed": 0, "dataset": "street"}
    return TrainRecipe(**tiny | {"height": 32, "width": 48, "model": "fcn16s"} | settings)


TINY_TABLE = """
title = "A table for tests"

[recipe]
dataset = "street"
height = 32
width = 48
model = "fcn16s"
steps = 12
batch_size = 2
precision = "32-true"

[recipe.dataset_options]
train_length = 6
val_length = 3

[recipe.model_options]
width = 4
fc_channels = 8
norm = true
padding = "same"

[profiles.quick]

[profiles.laptop]
checkpoint_every = 4
"""
"""A table of tiny trainings on generated streets: its rows and claims are to follow."""
