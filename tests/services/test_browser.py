"""What readers see of a study in a browser: the report, a comparison, and MLflow's pages.

Nothing is allowed to go wrong on a page (tests/services/browser.py) but two things: MLflow's asks a
server without logins who is logged in, and hears 404; and its layout may take a frame too many.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, FrameLocator, Page, expect

from study import compare, report, tracking, tracking_views
from study.tracking import Mirror
from study.tracking_uri import default_uri
from tests.services import browser
from tests.services.mlflow_pages import Pages
from tests.services.tracking_server import TrackingServer
from tests.study.finished import mirrored

expect.set_options(timeout=browser.PATIENCE)

ALL = [92.0, 93.0, 92.5]
ON = [94.0, 95.5, 94.0]
SGD = [90.0, 91.0, 92.0]
ARMS = ("sgd", "sam_all", "sam_on")
BARS = {"confirm": [91, 92.5, 94.5], "best": [90, 91, 92], "cost": [0.5, 0.5, 0.5]}
"""By view, what the first chart shows of the arms."""
Medium = Literal["light", "dark", "print"]
PAGES = ("report.html", "compare.html")


@dataclass(frozen=True)
class Finished:
    """Two studies that are over. folder: of the pages; sentences: what each page must say."""

    folder: Path
    uri: str
    sentences: dict[str, str]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("seen")
    uri = default_uri(folder)
    for i, name in enumerate(("one", "two")):
        scores = {"sgd": SGD, "sam_all": ALL, "sam_on": [value + i for value in ON]}
        search = {arm: [70.0, 80.0 + j, 90.0 + j, 60.0] for j, arm in enumerate(ARMS)}
        home = mirrored(folder / "studies", uri, name, scores, search=search, data_hash=name)
        report.write(home.folder, *home.rounds())
        Mirror(tracking.open_store(uri), home, uri).finish()  # with the report
    assert compare.main(["one", "two", "--tracking-uri", uri, "--out", str(folder)]) == 0
    one = folder / "studies" / "one"
    (folder / "report.html").write_bytes((one / "report.html").read_bytes())
    verdict = json.loads((one / "verdict.json").read_text())["sentence"]
    return Finished(folder, uri, dict(zip(PAGES, (verdict, "Not pooled"), strict=True)))


@pytest.mark.parametrize(
    ("size", "medium"),
    [
        *((size, medium) for size in (browser.DESK, browser.PHONE) for medium in ("light", "dark")),
        (browser.PAPER, "print"),
    ],
)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_ours_is_readable(
    chromium: Browser, finished: Finished, name: str, size: dict[str, int], medium: Medium
) -> None:
    address = (finished.folder / name).as_uri()
    with (
        browser.reader(chromium, size) as reader,
        browser.opened(reader, address) as (page, wrong),
    ):
        if medium == "print":  # a reader's dark mode must not reach the paper
            page.emulate_media(media="print", color_scheme="dark")
        else:
            page.emulate_media(color_scheme=medium)
        _shows(page, finished.sentences[name])
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        assert _paper(page) == pytest.approx(0 if medium == "dark" else 1, abs=0.1)
        assert _faintest(page) >= 4.5  # WCAG 2.2, level AA
        assert wrong == []


@pytest.fixture(scope="module")
def pages(finished: Finished) -> Iterator[Pages]:
    server = TrackingServer(finished.uri, finished.folder)
    server.start()
    try:
        yield Pages(server.uri, tracking.open_store(finished.uri), "one")
    finally:
        server.stop()


@pytest.fixture(scope="module")
def reader(chromium: Browser) -> Iterator[BrowserContext]:
    with browser.reader(chromium) as running:
        yield running


@pytest.mark.parametrize("key", tracking_views.VIEWS)
def test_a_view_opens_as_its_link_says(reader: BrowserContext, pages: Pages, key: str) -> None:
    view = tracking_views.VIEWS[key]
    address = tracking_views.link(pages.server, pages.experiment, key)
    with browser.opened(reader, address) as (page, wrong):
        expect(page.get_by_test_id("saved-views-trigger")).to_have_text(view.name)
        expect(page.get_by_text("Model training")).to_be_visible()
        if view.group is not None:
            for arm in ARMS:
                expect(page.get_by_text(f"Group: {arm}", exact=True)).to_be_visible()
        if view.charts:
            charts = page.locator(".js-plotly-plot")
            expect(charts).to_have_count(len(view.charts))
            if key in BARS:
                bars = charts.first.locator(".bartext")
                expect(bars).to_have_count(len(ARMS))
                assert sorted(map(float, bars.all_text_contents())) == BARS[key]
        assert wrong == []


def test_the_table_of_runs_shows_means_by_arm(reader: BrowserContext, pages: Pages) -> None:
    address = tracking_views.link(pages.server, pages.experiment, "confirm")
    with browser.opened(reader, address.replace("&compareRunsMode=CHART", "")) as (page, wrong):
        means = page.get_by_role("gridcell").filter(has_text="(average)")
        expect(means.filter(has_text="94.5").first).to_be_visible()
        for column in ("test_accuracy", "validation_accuracy"):
            expect(page.locator(".ag-header").get_by_text(column, exact=True)).to_be_visible()
        assert wrong == []


def test_the_page_of_a_study_tells_its_verdict(
    reader: BrowserContext, finished: Finished, pages: Pages
) -> None:
    with browser.opened(reader, pages.run()) as (page, wrong):
        _shows_text(page, finished.sentences["report.html"])
        page.get_by_text("Show more").first.click()
        cells = page.get_by_role("row").filter(has_text="sam_on − sam_all").get_by_role("cell")
        expect(cells).to_have_count(6)
        expect(cells.nth(2)).to_have_text("+2.00")
        for name in ("difference.sam_on_vs_sam_all", "test_accuracy.sam_on", "p.sam_on_vs_sgd"):
            expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
        for name in ("confirm_seeds", "trials_per_arm"):
            expect(page.get_by_text(name, exact=True)).to_be_visible()
        tag = page.get_by_role("status", name="verdict", exact=True)
        expect(tag).to_contain_text(finished.sentences["report.html"])
        assert wrong == []


def test_the_artifact_viewer_shows_the_report(
    reader: BrowserContext, finished: Finished, pages: Pages
) -> None:
    with browser.opened(reader, pages.run("report.html")) as (page, wrong):
        _shows(page.frame_locator("iframe"), finished.sentences["report.html"])
        assert wrong == []


def test_runs_of_two_arms_are_compared(reader: BrowserContext, pages: Pages) -> None:
    names = ("sam_on/confirm/0", "sam_all/confirm/0")
    with browser.opened(reader, pages.compared(names)) as (page, wrong):
        expect(page.get_by_role("heading", name="Comparing 2 Runs")).to_be_visible()
        for text in (*names, "94", "92"):
            expect(page.get_by_text(text, exact=True).first).to_be_visible()
        assert wrong == []


def test_verdicts_of_two_studies_stand_side_by_side(reader: BrowserContext, pages: Pages) -> None:
    with browser.opened(reader, pages.studies(["1", "2"])) as (page, wrong):
        for name in ("one", "two"):
            expect(page.get_by_role("gridcell").get_by_text(name, exact=True).first).to_be_visible()
        expect(page.get_by_text("2 matching runs")).to_be_visible()
        assert wrong == []


def _shows(page: Page | FrameLocator, sentence: str) -> None:
    """That the sentence and every plot of a page of ours can be seen."""
    _shows_text(page, sentence)
    plots = page.locator("figure svg")
    expect(plots.first).to_be_visible()
    for plot in plots.all():
        plot.scroll_into_view_if_needed()
        expect(plot).to_be_in_viewport()
        box = plot.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) > 100


def _shows_text(page: Page | FrameLocator, text: str) -> None:
    expect(page.get_by_text(text).first).to_be_visible()


_LUMINANCE = """
    const luminance = colour => {  // WCAG 2.2, relative luminance
        const part = i => colour[i] <= 10.31 ? colour[i] / 3294.6
            : ((colour[i] / 255 + .055) / 1.055) ** 2.4;
        return .2126 * part(0) + .7152 * part(1) + .0722 * part(2);
    };
    const read = text => text.match(/[\\d.]+/g).map(Number);
    const paper = luminance(read(getComputedStyle(document.body).backgroundColor));
"""


def _paper(page: Page) -> float:
    """The relative luminance of the page's background, from 0 to 1."""
    return float(page.evaluate(f"() => {{ {_LUMINANCE} return paper; }}"))


def _faintest(page: Page) -> float:
    """The lowest contrast, from 1 to 21, of text of a page and its plots to its background."""
    return float(
        page.evaluate(
            f"""() => {{ {_LUMINANCE}
            const texts = [...document.querySelectorAll("h1, h2, p, td, th, li, figcaption, text")];
            return Math.min(...texts.filter(each => each.textContent.trim()).map(each => {{
                const style = getComputedStyle(each);
                const ink = luminance(read(each.tagName === "text" ? style.fill : style.color));
                return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
            }}));
            }}"""
        )
    )
