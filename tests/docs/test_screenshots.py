"""The pictures of reports: what stands above a heading, in headless Chromium."""

import shutil
import struct
from pathlib import Path

import pytest

from configs.load import UserError
from configs.pages.page import page
from docs import screenshots

HAS_CHROMIUM = shutil.which("chromium") is not None and shutil.which("chromedriver") is not None


@pytest.mark.browser
@pytest.mark.timeout(300)
@pytest.mark.skipif(not HAS_CHROMIUM, reason="no Chromium (Debian: chromium chromium-driver)")
def test_a_picture_ends_above_a_heading(tmp_path: Path) -> None:
    pytest.importorskip("selenium")
    path, image = tmp_path / "page.html", tmp_path / "page.png"
    parts = ["<h2>First</h2>", '<div style="height: 3000px"></div>', "<h2>Next</h2>", "<p>b</p>"]
    path.write_text(page("A page", parts))
    with screenshots.chromium() as browser:
        screenshots.take(browser, path, image, "Next")
        with pytest.raises(UserError, match="no heading 'Last'"):
            screenshots.take(browser, path, image, "Last")
    width, height = struct.unpack(">II", image.read_bytes()[16:24])
    assert width == screenshots.WIDTH_PIXELS
    assert 3000 < height < 3200


def test_without_chromium_there_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("selenium")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="no Chromium"), screenshots.chromium():
        pass
