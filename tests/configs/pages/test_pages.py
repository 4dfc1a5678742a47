"""Pages are one file: their tables, bars, axes and line charts."""

import json
import math
import re
from html.parser import HTMLParser

import pytest

from configs.pages.axes import labels, linear_axis, log_axis, tight_axis
from configs.pages.bars import bars, histogram
from configs.pages.colours import DARK, LIGHT, colour, dashes
from configs.pages.lines import Chart, Line, Mark, line_chart, svg
from configs.pages.page import contents, page
from configs.pages.table import table

VOID = {"meta", "br", "line", "circle", "rect", "path", "polyline"}


class Nesting(HTMLParser):
    """Checks that every tag is closed in its order, and collects addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [str(v) for k, v in attrs if k in ("href", "src", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def checked(text: str) -> Nesting:
    parser = Nesting()
    parser.feed(text)
    parser.close()
    assert not parser.open
    return parser


def wave(**more: object) -> Chart:
    line = Line("<b>loss</b>", [1, 2, 3, 4], [4.0, 3.0, math.nan, 2.0], [3, 3, 2, 1], [5, 4, 3, 9])
    return Chart("Loss & more", [line, Line("held out", [2, 4], [3.5, 2.5])], **more)  # type: ignore[arg-type]


def test_a_page_is_one_file_of_well_formed_html() -> None:
    parts = [
        contents([("a", "A & B")]),
        '<h2 id="a">A</h2>',
        table(["name", "count"], [["<x>", "1,000"], ["y", "–"]], row_headers=True),
        bars({"a": {"x": 1, "y": 2}}, " MB"),
        histogram({"a": [1, 2]}, ["<1", "1"]),
        f'<div class="plots">{line_chart(wave(marks=[Mark(2, "saved <1>")]))}</div>',
    ]
    text = page("A <title>", parts)
    assert checked(text).addresses == ["#a"]
    assert "http" not in text
    assert "<title>A &lt;title&gt;</title>" in text
    assert "&lt;x&gt;" in text
    assert "<b>loss" not in text


def test_a_column_of_numbers_is_aligned_right() -> None:
    text = table(["a", "b"], [["x1", "1,000"], ["x2", "-2.5e-04"], ["x3", "12.5 %"]])
    assert text.count('class="number"') == 4
    assert 'class="number"' not in table(["a"], [["1 run"]])
    assert table(["a"], [])  # no row


def test_a_gap_in_a_line_and_its_band() -> None:
    text = svg(wave())
    # nan splits the first line: two pieces, and one of the second line
    assert text.count("<polyline") == 3
    assert text.count("<path") == 1


def test_values_of_zero_are_gaps_of_a_logarithmic_axis() -> None:
    chart = Chart("norm", [Line("norm", [1, 2, 3], [1.0, 0.0, 10.0])], is_log=True)
    assert svg(chart).count("<polyline") == 2
    assert svg(Chart("norm", [Line("norm", [1], [0.0])], is_log=True))  # linear instead


@pytest.mark.parametrize("values", [[], [math.nan], [0.0], [5.0, 5.0], [-1e9, 1e12], [1e-12]])
def test_charts_of_strange_values_can_be_drawn(values: list[float]) -> None:
    line = Line("a", list(range(len(values))), values)
    for is_log in (False, True):
        text = line_chart(Chart("a", [line], is_log=is_log))
        checked(text)
        assert "nan" not in text
        assert "inf" not in text


def test_the_readout_has_the_values_of_the_lines() -> None:
    text = line_chart(wave())
    found = re.search(r'<script type="application/json">(.*?)</script>', text)
    assert found is not None
    data = json.loads(found[1])
    assert data["series"][0] == {
        "name": "<b>loss</b>",
        "x": [1, 2, 3, 4],
        "y": [4, 3, None, 2],
        "low": [3, 3, 2, 1],
        "high": [5, 4, 3, 9],
    }
    assert (data["from"], data["to"]) == (1, 4)


def test_axes_hold_their_values_and_have_round_ticks() -> None:
    axis = linear_axis([0.13, 9.7])
    assert (axis.low, axis.high) == (0, 10)
    assert (axis.share(0), axis.share(5), axis.share(99)) == (0, 0.5, 1)
    assert tight_axis(3, 11).ticks == (4, 6, 8, 10)
    logarithmic = log_axis([0.0, 0.02, 30])
    assert logarithmic is not None
    assert (logarithmic.low, logarithmic.high) == (0.01, 100)
    assert logarithmic.share(1) == pytest.approx(0.5)
    assert log_axis([0.0, -1, math.inf]) is None
    assert linear_axis([3, 5], from_zero=True).low == 0


def test_labels_tell_ticks_apart() -> None:
    assert labels([0, 5000, 10000]) == ["0", "5k", "10k"]
    assert labels([0, 250_000, 1_000_000]) == ["0", "0.25M", "1M"]
    assert labels([0, 2e-4, 4e-4]) == ["0", "0.0002", "0.0004"]
    assert labels([0.5, 0.75]) == ["0.5", "0.75"]


def test_many_series_stay_apart_by_dashes() -> None:
    looks = [(colour(number), dashes(number)) for number in range(3 * len(LIGHT))]
    assert len(set(looks)) == len(looks)
    assert len(DARK) == len(LIGHT)
