"""How busy a card is kept: `fit`, a training step, evaluation and batches of pictures, each as a ratio in one run.

Contestants take turns on the same card, so that its clock and its other users slow all of them down.
"""

import copy
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from benchmarks.measure import Result
from course_lib.data.registry import dataset_info, open_dataset
from course_lib.data.sample import SegmentationDataset
from course_lib.data.splits import Subset
from course_lib.data.stream import training_batches
from course_lib.data.transforms import train_transform
from course_lib.experiments.building import loading_processes
from course_lib.losses import cross_entropy
from course_lib.models.deeplab import DeepLabV3Plus
from course_lib.models.drn import DRN
from course_lib.models.fcn import FCN
from course_lib.models.pspnet import PSPNet
from course_lib.models.unet import UNet
from course_lib.plumbing.devices import make_fabric, set_up
from course_lib.plumbing.fabric import Fabric
from course_lib.plumbing.graphs import Replayed
from course_lib.train import evaluate, fit

CLASSES, BATCH = 11, 8
SIZE, CROP = (360, 480), (352, 480)
STEPS, ROUNDS = 20, 3
UNTIMED, TIMED = 30, 100
"""Steps of `fit` and batches of pictures: the first ones choose kernels and bring the pictures to the card."""
CHANGES = train_transform(crop=CROP, scale=(0.5, 2.0), jitter=0.3)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "DRN-D-22": (lambda: DRN(CLASSES, arch="D-22"), 1.8),
    "PSPNet, ResNet-18": (lambda: PSPNet(CLASSES, depth=18), 1.8),
    "DeepLabV3+, ResNet-18": (lambda: DeepLabV3Plus(CLASSES, depth=18), 1.8),
    "U-Net, width 40": (lambda: UNet(CLASSES, width=40, norm=True, padding="same"), 1.3),
    "FCN-8s, width 64": (lambda: FCN(CLASSES, stride=8, fc_channels=1024, norm=True, padding="same"), 1.3),
}
"""With what a step should gain over `Steps` that are not busy."""
FITTED = ("U-Net, width 40", "FCN-8s, width 64")


def measure() -> Iterator[Result]:
    """All ratios, one after the other; nothing without a card."""
    if not torch.cuda.is_available():
        return
    torch.manual_seed(0)
    fabric = make_fabric()
    training, validation = pictures("train", 128), pictures("val", 64)
    yield streaming(fabric, training)
    yield evaluating(fabric, validation)
    for name in NETWORKS:
        yield from stepping(fabric, name, training)
    yield from against_smp(fabric)


def pictures(split: str, count: int) -> SegmentationDataset:
    """CamVid's where they are, else generated streets of the same size and classes; in memory."""
    if not dataset_info("camvid").present():
        return open_dataset("street", split, SIZE, length=count)
    files = open_dataset("camvid", split, SIZE, cache=False)
    return Subset(open_dataset("camvid", split, SIZE), range(min(count, len(files))))


def now() -> float:
    """Return the time in seconds, once the card has done all that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def in_rounds(contestants: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Return the median of what each contestant returns, images a second; a first round does not count."""
    rates = [{name: call() for name, call in contestants.items()} for _ in range(1 + ROUNDS)][1:]
    return {name: statistics.median(rate[name] for rate in rates) for name in contestants}


class Steps:
    """Training steps on a batch of random numbers.

    Busy: as `fit` takes them, with cuDNN's fastest kernels, a fused optimiser and, unless `graphs` is False, passes
    that are replayed. Else as a plain loop does, which looks at each loss.
    """

    def __init__(self, fabric: Fabric, model: nn.Module, busy: bool, graphs: bool = True):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, **({"fused": True} if busy else {"foreach": True}))
        self.fabric, self.busy = fabric, busy
        self.network, self.optimizer = set_up(fabric, model, optimizer)
        if busy and graphs:
            model.forward = Replayed(model)
        images = torch.randn(BATCH, 3, *CROP, device=fabric.device)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(CLASSES, (BATCH, *CROP), device=fabric.device)

    def __call__(self) -> float:
        """Return the images a second of STEPS steps."""
        self.network.train()
        with kernels(self.busy):
            began = now()
            for _ in range(STEPS):
                loss = cross_entropy(self.network(self.images), self.labels)
                self.fabric.backward(loss)
                if not self.busy:
                    loss.item()
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
            return STEPS * BATCH / (now() - began)


@contextmanager
def kernels(tried: bool) -> Iterator[None]:
    """Let cuDNN try its kernels, or take those that it guesses.

    It remembers one kernel for a convolution, however that was found. TF32, which changes nothing in bfloat16, is part
    of what it is remembered by: so the two keep apart.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.conv.fp32_precision
    cudnn.benchmark, cudnn.conv.fp32_precision = tried, "tf32" if tried else "ieee"
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.conv.fp32_precision = before


def stepping(fabric: Fabric, name: str, training: SegmentationDataset) -> list[Result]:
    """A step now over one of a plain loop, and for some networks all of `fit` over its steps."""
    make, gain = NETWORKS[name]
    model = make()
    contestants = {
        "step": Steps(fabric, copy.deepcopy(model), True),
        "step without graphs": Steps(fabric, copy.deepcopy(model), True, graphs=False),
        "plain step": Steps(fabric, copy.deepcopy(model), False),
    }
    if name in FITTED:
        contestants["fit"] = lambda: fitting(fabric, copy.deepcopy(model), training)
    rates = in_rounds(contestants)
    details = {f"{what} (images/s)": rate for what, rate in rates.items()}
    results = [Result(f"step of {name}, over a plain one", rates["step"] / rates["plain step"], "times", gain, details)]
    if name in FITTED:
        share = rates["fit"] / rates["step"]
        results.append(Result(f"fit of {name}, over its steps on random data", share, "times", 0.9, details))
    return results


def fitting(fabric: Fabric, model: nn.Module, training: SegmentationDataset) -> float:
    """Return the images a second of `fit`, once it runs."""
    seen: dict[int, float] = {}
    fit(
        model,
        training,
        steps=UNTIMED + TIMED,
        batch_size=BATCH,
        transform=CHANGES,
        fabric=fabric,
        workers=loading_processes(fabric),
        on_step=lambda step, _: seen.setdefault(step, now()),
        show_progress=False,
    )
    return TIMED * BATCH / (seen[UNTIMED + TIMED] - seen[UNTIMED])


def against_smp(fabric: Fabric) -> list[Result]:
    """DeepLabV3+ with ResNet-50 at stride 16 against segmentation_models.pytorch's in its default loop, if it is here."""
    if importlib.util.find_spec("segmentation_models_pytorch") is None:
        return []
    import segmentation_models_pytorch as smp

    theirs = smp.DeepLabV3Plus("resnet50", encoder_weights=None, encoder_output_stride=16, classes=CLASSES)
    theirs.to(fabric.device).train()
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-4)
    ours = Steps(fabric, DeepLabV3Plus(CLASSES, depth=50, output_stride=16), True)
    images, labels = ours.images.contiguous(), ours.labels

    def plain() -> float:
        began = now()
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(theirs(images), labels)
            loss.backward()
            optimizer.step()
            loss.item()
        return STEPS * BATCH / (now() - began)

    rates = in_rounds({"ours": ours, "theirs": plain})
    details = {f"{what} (images/s)": rate for what, rate in rates.items()}
    name = "step of DeepLabV3+, ResNet-50, stride 16, over segmentation_models.pytorch's"
    return [Result(name, rates["ours"] / rates["theirs"], "times", 1.5, details)]


def evaluating(fabric: Fabric, validation: SegmentationDataset) -> Result:
    """`evaluate` over the forward passes that it needs."""
    model = NETWORKS["U-Net, width 40"][0]().to(fabric.device, memory_format=torch.channels_last)
    images = torch.randn(BATCH, 3, *SIZE, device=fabric.device).contiguous(memory_format=torch.channels_last)

    def whole() -> float:
        began = now()
        with fabric.autocast():
            evaluate(model, validation, batch_size=BATCH, show_progress=False)
        return len(validation) / (now() - began)

    @torch.no_grad()
    def forward() -> float:
        began = now()
        with fabric.autocast():
            for _ in range(STEPS):
                model.eval()(images)
        return STEPS * BATCH / (now() - began)

    rates = in_rounds({"evaluate": whole, "forward": forward})
    details = {f"{what} (images/s)": rate for what, rate in rates.items()}
    return Result("evaluate, over its forward passes", rates["evaluate"] / rates["forward"], "times", 0.5, details)


def streaming(fabric: Fabric, training: SegmentationDataset) -> Result:
    """Batches of changed pictures alone: enough for any network."""

    def batches() -> float:
        options = {"transform": CHANGES, "fabric": fabric, "workers": loading_processes(fabric)}
        for number, batch in enumerate(training_batches(training, steps=UNTIMED + TIMED, batch_size=BATCH, **options)):
            fabric.to_device(batch)
            if number == UNTIMED:
                began = now()
        return (TIMED - 1) * BATCH / (now() - began)

    return Result("changed pictures to train on", in_rounds({"batches": batches})["batches"], "images/s", 1000, {})
