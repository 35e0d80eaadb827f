"""How far our runs are from the paper's: six settings side by side, and a letter for each that differs."""

from course_lib.data.registry import DATASETS
from course_lib.experiments.recipe import Recipe
from course_lib.experiments.report.scoreboard import Results
from course_lib.experiments.table import SETTING, Table

LETTERS = dict(zip(SETTING, "DXSPNT", strict=True))
WORDS = "D data, X split, S size, P pretraining, N network, T training length"
NOTHING = "nothing is trained"


def our_setting(results: Results, profile: str) -> dict[str, str]:
    """Return the settings of our runs at a profile, under the keys of `[setting.paper]`, read from the recipe."""
    table = results.table
    recipe = results.leading(profile)
    network = table.setting.get(profile, {}).get("network", "")
    return {
        "data": DATASETS[recipe.dataset].title,
        "split": recipe.val_split,
        "size": f"{recipe.height}x{recipe.width}",
        "start": _start(recipe),
        "network": network,
        "epochs": _epochs(results, recipe, profile),
    }


def _start(recipe: Recipe) -> str:
    if not recipe.chance:
        return NOTHING
    if getattr(recipe, "start_from", ""):
        return "a committed checkpoint"
    return "ImageNet" if recipe.model_options.get("imagenet") else "scratch"


def _epochs(results: Results, recipe: Recipe, profile: str) -> str:
    """Return the passes over the training images of a recorded run, or the images seen where none is."""
    if not recipe.chance:
        return NOTHING
    seen = recipe.steps * recipe.batch_size
    for (_, of), records in results.valid.items():
        pictures = next(iter(records.values())).data.get("train_pictures") if of == profile else None
        if pictures:
            return f"{seen / pictures:.0f}"
    return f"{seen:,} images"


def letters(results: Results, profile: str) -> str:
    """Return the letters of the settings that are not the paper's; "" where the table has none of a paper."""
    paper = results.table.setting.get("paper")
    if not paper or not profile:
        return ""
    ours = our_setting(results, profile)
    return "".join(letter for key, letter in LETTERS.items() if ours[key] != paper[key])


def in_words(setting: dict[str, str]) -> str:
    """Return settings as a line: data and split, size, start, network, epochs."""
    epochs = setting["epochs"] + (" epochs" if setting["epochs"].isdigit() else "")
    start = {"scratch": "from scratch", "ImageNet": "ImageNet weights"}.get(setting["start"], setting["start"])
    sizes = {"not given": "size not given"}.get(setting["size"], setting["size"])
    length = {"not given": "length not given"}.get(epochs, epochs)
    split = "" if setting["split"] == "not given" else f" {setting['split']}"
    parts = [setting["data"] + split, sizes, "start not given" if start == "not given" else start]
    return ", ".join(dict.fromkeys([*parts, setting["network"], length]))


def short_name(table: Table) -> str:
    """Return what the paper of a table is called for short; the table's name where it repeats none."""
    return table.short or table.name
