"""Networks with a convolution that is wrong in bfloat16, on every processor."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Wrong(torch.autograd.Function):
    """A convolution whose chosen part is wrong in bfloat16."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, part: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.part = part if torch.is_autocast_enabled("cpu") or x.dtype == torch.bfloat16 else None
        x, weight = (x.bfloat16(), weight.bfloat16()) if ctx.part is not None else (x, weight)
        y = functional.conv2d(x, weight, padding=1)
        return y.flip(1) if ctx.part == 0 else y

    @staticmethod
    def backward(ctx, back: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        back = back.float()
        of_input = nn.grad.conv2d_input(x.shape, weight.float(), back, padding=1)
        of_weight = nn.grad.conv2d_weight(x.float(), weight.shape, back, padding=1)
        of_input = -of_input if ctx.part == 1 else of_input
        of_weight = of_weight * torch.nan if ctx.part == 2 else of_weight
        return of_input.to(x.dtype), of_weight, None


class WrongConv(nn.Conv2d):
    """3x3 convolution that is wrong in bfloat16: in its output (0) or a gradient (1: input, 2: weight)."""

    def __init__(self, channels: int, out: int, part: int):
        super().__init__(channels, out, 3, padding=1, bias=False)
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return Wrong.apply(x, self.weight, self.part)


def network(part: int | None = 1) -> nn.Sequential:
    torch.manual_seed(0)
    middle = nn.Conv2d(8, 8, 3, padding=1, bias=False) if part is None else WrongConv(8, 8, part)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), middle, nn.Dropout(0.5), nn.Conv2d(8, 4, 1))


def loss(model: nn.Module, images: Tensor) -> Tensor:
    return model(images).square().mean()
