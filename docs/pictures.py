"""The two pictures of the README: `python docs/pictures.py`. Generated streets, committed checkpoints."""

from pathlib import Path

from course_lib import plotting
from course_lib.data.scenes import Street
from course_lib.experiments.recipes import resolve
from course_lib.experiments.reproduce import build_model
from course_lib.train import predict

HERE = Path(__file__).parent / "pictures"

if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    streets = Street(length=40, size=(192, 256), seed=11)
    figure = plotting.gallery(streets, [0, 1, 4, 5])
    figure.savefig(HERE / "streets.png", dpi=90)

    scenes = Street(length=40, size=(96, 128), seed=2_000_000)
    shown = scenes[12]
    predictions = {}
    for row, name in (("fcn32s", "FCN-32s"), ("fcn16s", "FCN-16s"), ("fcn8s", "FCN-8s")):
        network = build_model(resolve("fcn_skips", row, "quick"), len(scenes.classes))
        predictions[name] = predict(network, shown.image)
    figure = plotting.compare(shown.image, shown.labels, predictions, scenes.classes, scenes.palette)
    figure.savefig(HERE / "fcn_strides.png", dpi=90)
