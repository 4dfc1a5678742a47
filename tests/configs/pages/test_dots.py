"""Dot charts: places, intervals, names that do not fit, and numbers with intervals in tables."""

import re

from configs.pages.dots import Dot, dot_chart
from configs.pages.table import table
from tests.configs.pages.test_pages import Nesting


def test_dots_stand_where_their_values_are() -> None:
    rows: dict[str, list[Dot | None]] = {
        "a": [Dot(0.0, "0.0"), Dot(1.0, "1.0", 0.5, 1.0)],
        "b <of> a very long name of a group": [None, Dot(0.5, "half")],
    }
    chart = dot_chart("Shares & more", rows, ["one", "two"], "a caption")
    checker = Nesting()
    checker.feed(chart)
    assert not checker.open
    places = [float(x) for x in re.findall(r'cx="([\d.]+)"', chart)]
    left, right, middle = places  # the missing one has no dot
    assert left < middle < right
    assert middle == (left + right) / 2
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', chart)]
    assert heights == sorted(heights)
    ends = re.search(r'<line x1="([\d.]+)" x2="([\d.]+)" y1="[\d.]+" y2="[\d.]+" stroke=', chart)
    assert ends is not None
    assert [float(end) for end in ends.groups()] == [middle, right]
    assert "b &lt;of&gt; a very long …" in chart
    assert "<title>b &lt;of&gt; a very long name of a group, two: half</title>" in chart
    assert "Shares &amp; more" in chart


def test_numbers_with_intervals_are_aligned_as_numbers() -> None:
    text = table(["what", "x"], [["a", "2.8200 ± 0.2055 *"], ["b", "9.5% ± 3.5%"], ["c", "–"]])
    assert text.count('<td class="number">') == 3
    assert '<td class="number">' not in table(["x"], [["2 ± many"]])
