"""Debian's Chromium without a window, and what goes wrong on a page that it shows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    Response,
    sync_playwright,
)

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1440, "height": 900}
PAPER = {"width": 718, "height": 1047}
"""A4 within margins of a centimetre."""
PATIENCE = 60_000
"""Milliseconds for what a page does not show yet."""

_ARGUMENTS = (
    "--no-sandbox",  # its own needs privileges that containers do not give
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-gpu",
    "--no-first-run",
)
_NO_LOGINS = "/mlflow/users/current"
"""MLflow's page asks who is logged in, and hears 404 from a server without logins."""
_SLOW_LAYOUT = "ResizeObserver loop completed with undelivered notifications."
"""The note that the standard asks for where a page needs a second frame for its layout."""
_ASSISTANT = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
"""What MLflow's page remembers once it has opened its chat beside what somebody came to see."""


def program() -> Path | None:
    """Where Chromium is; None where it is not installed."""
    found = shutil.which("chromium")
    return Path(found) if found else None


@contextmanager
def launched(program: Path) -> Iterator[Browser]:
    """Chromium, until the end of the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def reader(
    browser: Browser, size: dict[str, int] = DESK, sharpness: float = 1
) -> Iterator[BrowserContext]:
    """Somebody who saw no page before. sharpness: pixels of a picture for one of a page's."""
    width, height = size["width"], size["height"]
    context = browser.new_context(
        viewport={"width": width, "height": height}, device_scale_factor=sharpness
    )
    context.set_default_timeout(PATIENCE)
    context.add_init_script(f"try {{ {_ASSISTANT} }} catch {{}}")  # a file has no storage
    try:
        yield context
    finally:
        context.close()


@contextmanager
def opened(reader: BrowserContext, address: str) -> Iterator[tuple[Page, list[str]]]:
    """A page, and what goes wrong on it, which grows.

    Wrong is: an error in the console, an exception of a script, a request that fails or that leaves
    this machine.
    """
    page = reader.new_page()
    wrong: list[str] = []

    def console(message: ConsoleMessage) -> None:
        expected = _expected(message.location["url"]) or _SLOW_LAYOUT in message.text
        if message.type == "error" and not expected:
            wrong.append(f"console: {message.text} ({message.location['url']})")

    def request(asked: Request) -> None:
        parts = urlsplit(asked.url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname != "127.0.0.1":
            wrong.append(f"leaves this machine: {asked.url}")

    def failed(asked: Request) -> None:
        wrong.append(f"failed: {asked.url}: {asked.failure}")

    def response(answer: Response) -> None:
        if answer.status >= 400 and not _expected(answer.url):
            wrong.append(f"answered {answer.status}: {answer.url}")

    page.on("console", console)
    page.on("pageerror", lambda error: wrong.append(f"exception: {error}"))
    page.on("request", request)
    page.on("requestfailed", failed)
    page.on("response", response)
    try:
        page.goto(address)
        yield page, wrong
    finally:
        page.remove_listener("requestfailed", failed)  # closing ends what is under way
        page.close()


def _expected(address: str) -> bool:
    return urlsplit(address).path.endswith(_NO_LOGINS)
