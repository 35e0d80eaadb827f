"""The benchmark of the explorers' pages, with a move or two: what it measures is measured by hand."""

from benchmarks import widgets


def test_pages_are_moved_and_codes_refined(tmp_path, monkeypatch):
    monkeypatch.setattr(widgets, "MOVES", 2)
    chosen = ("latent", "network", "receptive_field")
    monkeypatch.setattr(widgets, "ON_PAGES", {name: widgets.ON_PAGES[name] for name in chosen})
    monkeypatch.setattr(widgets, "PAGES", {name: widgets.PAGES[name] for name in chosen if name in widgets.PAGES})
    found = {result.name: result for result in widgets.on_pages(tmp_path)}
    assert list(found) == [
        "on a page: latent explorer",
        "on a page: refining a code",
        "on a page: network explorer",
        "on a page: receptive field explorer",
    ]
    assert all(0 < result.value < 10_000 for result in found.values())
    assert [result.target for result in found.values()] == [50, 500, 50, 20]
