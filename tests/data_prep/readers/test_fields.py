"""Fields by dotted path, in JSON objects as in the columns of tables."""

from typing import Any

import pytest

from data_prep.readers.fields import MISSING, field_of, texts_in

RECORD: dict[str, Any] = {
    "data.text": "literal",
    "data": {"text": "nested", "a.b": {"c": "dots inside"}},
    "turns": [{"text": "one"}, {"text": "two"}, {"other": 3}],
    "pages": ["first", "second"],
    "null": None,
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.text", "literal"),
        ("data.a.b.c", "dots inside"),
        ("turns.text", ["one", "two"]),
        ("turns.1.text", "two"),
        ("pages.1", "second"),
        ("pages", ["first", "second"]),
        ("null", None),
    ],
)
def test_a_path_leads_to_a_value(path: str, value: Any) -> None:
    assert field_of(RECORD, path) == value


@pytest.mark.parametrize(
    "path", ["no", "data.no", "turns.no", "pages.2", "null.x", "pages.0.x", ""]
)
def test_a_path_that_leads_nowhere_is_missing(path: str) -> None:
    assert field_of(RECORD, path) is MISSING


def test_lists_of_texts_are_texts() -> None:
    assert texts_in("a") == ["a"]
    assert texts_in(["a", None, ["b"]]) == ["a", "b"]
    assert texts_in([]) == []
    assert texts_in(["a", 1]) is None
    assert texts_in({"a": "b"}) is None
    assert texts_in(MISSING) is None
