"""An explorer in a page, compared with the same explorer here."""

from base64 import b64decode

import numpy as np

from course_lib.widgets.explorer import Event, answer, rgba

PIXELS = """canvas => {
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    const parts = [];
    for (let at = 0; at < pixels.length; at += 8192)
        parts.push(String.fromCharCode(...pixels.subarray(at, at + 8192)));
    return btoa(parts.join(""));
}"""


class Page:
    """An explorer in a page, beside the same explorer here: `check()` compares what both show."""

    def __init__(self, notebook, twin):
        self.root = notebook.find(".ep-explorer")
        self.root.wait_for()
        self.respond = twin.respond
        self.controls = {one["name"]: one for one in twin.controls}
        self.values = dict(twin.start["values"])
        self.waits = notebook.page.wait_for_function

    @property
    def draws(self):
        return int(self.root.get_attribute("data-draws"))

    def after(self, move):
        """Do something and wait until the explorer has drawn, and has nothing more to draw."""
        before = self.draws
        move()
        self.waits("([root, n]) => Number(root.dataset.draws) > n", arg=[self.root.element_handle(), before])
        self.root.page.wait_for_timeout(50)

    def check(self, pressed=None, points=()):
        given = answer(self.respond, Event(self.values, pressed, points))
        self.values |= given.values
        assert (self.root.locator(".ep-problem").inner_text() or "") == given.problem
        if not given.view.panels:
            return given
        canvases = self.root.locator("canvas")
        assert canvases.count() == len(given.view.panels)
        for number, panel in enumerate(given.view.panels):
            canvas = canvases.nth(number)
            size = canvas.evaluate("canvas => [canvas.height, canvas.width]")
            if size == list(panel.picture.shape[1:]):
                there = np.frombuffer(b64decode(canvas.evaluate(PIXELS)), np.uint8)
                here = np.frombuffer(rgba(panel.picture), np.uint8)
                # a kernel with other threads may round a colour or a tied pixel otherwise
                differ = np.abs(there.astype(int) - here.astype(int)) > 4
                assert differ.mean() < 0.002, panel.caption
            else:  # the page writes letters and lines of its own on it
                assert size == [2 * side for side in panel.picture.shape[1:]]
            assert canvas.get_attribute("aria-label").startswith(f"{panel.caption}: ")
        shown = self.root.locator(".ep-words").inner_text()
        assert shown == given.view.words, f"{self.values}: {shown!r} is not {given.view.words!r}"
        return given

    def slider(self, name):
        return self.root.locator(f'.ep-control[data-name="{name}"] input')

    def choice(self, name):
        return self.root.locator(f'.ep-control[data-name="{name}"] select')

    def press(self, name, key):
        """A key on a slider: the value that the page then shows."""
        self.after(lambda: self.slider(name).press(key))
        self.read(name)

    def click_at(self, name, part):
        """The mouse on a slider's track, at `part` of its length."""
        box = self.slider(name).bounding_box()
        at = {"x": 8 + part * (box["width"] - 16), "y": box["height"] / 2}
        self.after(lambda: self.slider(name).click(position=at))
        self.read(name)

    def read(self, name):
        stops = self.controls[name]["stops"]
        self.values[name] = stops[int(self.slider(name).input_value())]
        shown = self.root.locator(f'.ep-control[data-name="{name}"] output').inner_text()
        assert float(shown) == self.values[name]

    def select(self, name, value):
        self.after(lambda: self.choice(name).select_option(value))
        self.values[name] = value


class Plain:
    """A page without Jupyter, for `Page`."""

    def __init__(self, page):
        self.page = page
        self.find = page.locator


def move_everything(page):
    """Each slider by two keys and the mouse, each choice; after every move the pictures are compared."""
    for name, control in page.controls.items():
        if control["kind"] == "slider":
            stops = control["stops"]
            keys = ("End", "ArrowLeft") if page.values[name] == stops[0] else ("Home", "ArrowRight")
            for key in keys:
                page.press(name, key)
                page.check()
            stands = stops.index(page.values[name])
            assert stands == (1 if keys[0] == "Home" else len(stops) - 2)
            page.click_at(name, 0.8 if stands < len(stops) / 2 else 0.2)
            page.check()
            assert page.values[name] != stops[stands]
        elif control["kind"] == "choice":
            page.select(name, control["options"][-1])
            page.check()
