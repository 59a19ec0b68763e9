"""Takes the pictures of docs/images/ from finished studies.

    python -m benchmarks.screenshots OUT NAME [NAME ...] [--studies studies]

NAME: studies that have their verdict, in the folder `studies`. The first is shown, and all of them
in the comparison. They are mirrored into an MLflow server of its own, which this starts. Needs
Debian's chromium. Writes PNGs with two pixels for one of the page's, each below 300 kB, and stops
where a page shows an error.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from mlflow import MlflowClient
from playwright.sync_api import BrowserContext, Page, expect

from study import compare, report, tracking, tracking_views
from study.home import Home
from study.tracking import Mirror
from study.tracking_uri import default_uri
from tests.services import browser
from tests.services.mlflow_pages import Pages
from tests.services.tracking_server import TrackingServer

SIZE = {"width": 1280, "height": 800}
MAX_BYTES = 300_000
_COLOURS = 256
_STILL = 1500  # ms; charts move until then


def main() -> None:
    """Takes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--studies", type=Path, default=Path("studies"), metavar="DIR")
    options = parser.parse_args()
    program = browser.program()
    if program is None:
        sys.exit("Chromium is not installed; on Debian: apt-get install chromium")
    expect.set_options(timeout=browser.PATIENCE)
    with tempfile.TemporaryDirectory() as temporary, browser.launched(program) as chromium:
        folder = Path(temporary)
        server = TrackingServer(default_uri(folder), folder)
        try:
            server.start()
            client = tracking.open_store(server.uri)
            first, *_ = [
                _mirrored(Home.named(options.studies, name), folder, server.uri, client)
                for name in options.names
            ]
            where = ["--tracking-uri", server.uri, "--out", temporary]
            if compare.main([*options.names, *where]) != 0:
                sys.exit("no comparison, no pictures")
            pages = Pages(server.uri, client, options.names[0])
            with browser.reader(chromium, SIZE, sharpness=2) as reader:
                for name, take in _pictures(first.report, folder, pages).items():
                    _save(options.out / f"{name}.png", take(reader))
        finally:
            server.stop()


def _mirrored(home: Home, folder: Path, uri: str, client: MlflowClient) -> Home:
    """A copy of the study, which remembers the store that it was mirrored into, and its report."""
    copy = Home(folder, home.folder.name)
    copy.folder.mkdir()
    copy.journal.write_bytes(home.journal.read_bytes())
    report.write(copy.folder, *copy.rounds())
    mirror = Mirror(client, copy, uri)
    mirror.catch_up()
    mirror.finish()
    return copy


Take = Callable[[BrowserContext], bytes]


def _pictures(html: Path, compared: Path, pages: Pages) -> Mapping[str, Take]:
    """By name, what takes it."""

    def view(key: str, *, chart: bool) -> Take:
        address = tracking_views.link(pages.server, pages.experiment, key)
        if not chart:
            address = address.replace("&compareRunsMode=CHART", "")

        def ready(page: Page) -> None:
            expect(page.get_by_test_id("saved-views-trigger")).to_be_visible()
            page.get_by_role("button", name="Hide banner").click()
            shown = ".js-plotly-plot" if chart else "[role=gridcell]"
            expect(page.locator(shown).first).to_be_visible()

        return _page(address, ready)

    def in_frame(page: Page) -> None:
        expect(page.frame_locator("iframe").locator("h1")).to_be_visible()

    def compares(page: Page) -> None:
        expect(page.locator(".js-plotly-plot").first).to_be_visible()

    first = [name for name in pages.confirm if name.endswith("/0")]
    return {
        "report": _page(html.as_uri(), lambda page: None),
        "rho": _figure(html.as_uri(), "rho"),
        "compare": _page((compared / "compare.html").as_uri(), lambda page: None),
        "mlflow_runs": view("confirm", chart=False),
        "mlflow_charts": view("confirm", chart=True),
        "mlflow_search": view("search", chart=True),
        "mlflow_study": _page(pages.run(), _unfolded),
        "mlflow_artifact": _page(pages.run("report.html"), in_frame),
        "mlflow_compare": _page(pages.compared(first), compares),
    }


def _unfolded(page: Page) -> None:
    page.get_by_text("Show more").first.click()


def _page(address: str, ready: Callable[[Page], None]) -> Take:
    def take(reader: BrowserContext) -> bytes:
        with browser.opened(reader, address) as (page, wrong):
            ready(page)
            page.wait_for_timeout(_STILL)
            if wrong:
                sys.exit(f"{address}: {'; '.join(wrong)}")
            return page.screenshot()

    return take


def _figure(address: str, name: str) -> Take:
    def take(reader: BrowserContext) -> bytes:
        with browser.opened(reader, address) as (page, _):
            return page.get_by_role("group", name=name, exact=True).screenshot()

    return take


def _save(path: Path, png: bytes) -> None:
    """Writes the picture in so few colours that it stays small."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    picture = (
        Image.open(io.BytesIO(png)).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    )
    picture.save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path}: {picture.width} x {picture.height}, {size / 1000:.0f} kB")
    if size > MAX_BYTES:
        sys.exit(f"{path}: more than {MAX_BYTES / 1000:.0f} kB")


if __name__ == "__main__":
    main()
