"""Takes docs/images/data_report.png and run_report.png: the tops of the demo's two reports.

After `make pretrain` or a shorter run: ``python -m docs.screenshots runs/demo data/demo/rows``.
Needs Chromium (Debian: chromium chromium-driver).
"""

import logging
import shutil
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs import command
from configs.load import UserError
from pipeline.report import PAGE_NAME, write_report

IMAGES = Path(__file__).resolve().parent / "images"
WIDTH_PIXELS, SCREEN_HEIGHT_PIXELS = 1100, 1000

TOP_OF_HEADING = """
return [...document.querySelectorAll("h2, h3")].find(one => one.innerText === arguments[0])
    ?.getBoundingClientRect().top
"""

logger = logging.getLogger(__name__)


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium with a screen of `WIDTH_PIXELS`. Raises UserError without one."""
    from selenium import webdriver

    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        raise UserError("no Chromium: install it (Debian: chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(option)
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        size = {"width": WIDTH_PIXELS, "height": SCREEN_HEIGHT_PIXELS, "mobile": False}
        metrics = {**size, "deviceScaleFactor": 1}
        chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        yield chrome
    finally:
        chrome.quit()


def take(browser: Any, page: Path, image: Path, heading: str) -> None:
    """Writes what stands above `heading` on `page` to the PNG file `image`.

    Raises UserError for a page without that heading.
    """
    browser.get(page.resolve().as_uri())
    height = browser.execute_script(TOP_OF_HEADING, heading)
    if height is None:
        raise UserError(f"{page}: no heading {heading!r}")
    clip = {"x": 0, "y": 0, "width": WIDTH_PIXELS, "height": int(height), "scale": 1}
    settings = {"format": "png", "clip": clip, "captureBeyondViewport": True}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", settings)
    image.write_bytes(b64decode(shot["data"]))
    logger.info("%s: %d kB", image, image.stat().st_size // 1000)


def main() -> None:
    """Takes the two pictures."""
    parser = command.plain_parser("Take the pictures of the demo's two reports with Chromium.")
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("rows", type=Path, metavar="ROWS", help="folder of its rows")
    arguments = parser.parse_args()
    data_page, run_page = arguments.rows / PAGE_NAME, arguments.run / PAGE_NAME
    if not data_page.is_file():
        raise UserError(f"{data_page}: no such file; prepare the rows with python -m data_prep.run")
    write_report([arguments.run], run_page, "step", every_step=False)
    with chromium() as browser:
        take(browser, data_page, IMAGES / "data_report.png", "Dropped documents by reason")
        take(browser, run_page, IMAGES / "run_report.png", "Held-out loss by source")


if __name__ == "__main__":
    command.run(main)
