"""Line charts in a headless Chromium: values by keyboard, no scrolling sideways on a phone."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.pages.lines import Chart, Line, line_chart
from configs.pages.page import page
from configs.pages.table import table

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="no Chromium (Debian: chromium chromium-driver)",
    ),
]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    lines = [Line("a", [1, 2, 9], [0.5, 0.25, 2000.0]), Line("b", [2], [7.0])]
    parts = [line_chart(Chart("Loss", lines)), table(["wide"] * 40, [["1,000,000"] * 40])]
    (tmp_path / "page.html").write_text(page("A page", parts))
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=390,800"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get((tmp_path / "page.html").as_uri())
    yield driver
    driver.quit()


def test_values_by_keyboard_on_a_phone(browser: Any) -> None:
    chart = browser.find_element("css selector", ".plot")

    def readout() -> str:
        text: str = browser.find_element("css selector", ".readout").text
        return text

    chart.send_keys("\ue011")  # Home
    assert readout() == "step 1: a 0.5 · b 7 at 2"
    chart.send_keys("\ue014")  # right arrow
    assert readout() == "step 2: a 0.25 · b 7"
    chart.send_keys("\ue010")  # End
    assert readout() == "step 9: a 2,000 · b 7 at 2"
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert browser.get_log("browser") == []
