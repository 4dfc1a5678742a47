"""The shares of a mixture are named beside the weights that make them."""

from typing import Any

import pytest

from pipeline.tracking.mixture import describe_mixture

SOURCES = {
    "train/web": {"rows": 30, "tokens": 300},
    "train/books": {"rows": 10},
    "heldout/web": {"rows": 99},
}


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"web": 3, "books": 5.0}, "web 37.5 % (weight 3), books 62.5 % (weight 5)"),
        ({"web": 1.0, "books": 0}, "web 100 % (weight 1), books 0 % (weight 0)"),
        ("by rows", "web 75 %, books 25 % (by rows)"),
    ],
)
def test_shares_stand_beside_weights(weights: Any, expected: str) -> None:
    assert describe_mixture({"weights": weights, "sources": SOURCES}) == expected


@pytest.mark.parametrize(
    "profile",
    [
        {},
        {"weights": "by rows"},
        {"weights": "by rows", "sources": {"train/web": {"rows": "many"}}},
        {"weights": {}},
        {"weights": {"web": 0}},
        {"weights": {"web": -1, "books": 2}},
        {"weights": {"web": True}},
        {"weights": {"web": float("nan")}},
        {"weights": {"web": 10**400}},
        {"weights": {"web": "1"}},
    ],
)
def test_what_cannot_be_weights_is_no_mixture(profile: dict[str, Any]) -> None:
    assert describe_mixture(profile) is None
