"""What several tests of networks do."""

import torch
from torch import Tensor, nn

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
