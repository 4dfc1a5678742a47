"""Differences of configs are found by dotted path, with the marks of their fields."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from configs.differences import differences
from configs.load import Config
from configs.moved_keys import move_keys


class Mark:
    """A mark."""


class Small(Config):
    type: Literal["small"] = "small"
    size: int = 1


class Large(Config):
    type: Literal["large"] = "large"
    path: Path = Path("a")


class Inner(Config):
    choice: Annotated[Small | Large, Field(discriminator="type")] = Small()
    marked: Annotated[int, Mark()] = Field(1, gt=0)


class Outer(Config):
    inner: Annotated[Inner, "outer"] = Inner()
    parts: tuple[Inner, ...] = ()
    named: dict[str, Inner] = Field({})


def lines(before: object, now: object) -> list[str]:
    return [str(difference) for difference in differences(before, now)]


def test_equal_configs_do_not_differ() -> None:
    assert lines(Outer(), Outer(parts=())) == []


def test_leaves_are_named_by_path() -> None:
    before = Outer(parts=(Inner(),), named={"a": Inner()})
    now = Outer(
        inner=Inner(choice=Large()),
        parts=(Inner(choice=Small(size=3)),),
        named={"a": Inner(marked=2)},
    )
    assert lines(before, now) == [
        "inner.choice.path: None before, 'a' now",
        "inner.choice.size: 1 before, None now",
        "inner.choice.type: 'small' before, 'large' now",
        "parts.0.choice.size: 1 before, 3 now",
        "named.a.marked: 1 before, 2 now",
    ]


def test_a_sequence_of_other_length_is_one_difference() -> None:
    [difference] = differences(Outer(), Outer(parts=(Inner(),)))
    assert difference.path == "parts"
    assert difference.now == [{"choice": {"type": "small", "size": 1}, "marked": 1}]


def test_marks_of_all_fields_on_the_path_are_known() -> None:
    [difference] = differences(Outer(), Outer(inner=Inner(marked=2)))
    assert difference.has_mark(Mark)
    assert "outer" in difference.marks
    [difference] = differences(Outer(), Outer(inner=Inner(choice=Small(size=2))))
    assert not difference.has_mark(Mark)


def test_keys_move_to_their_new_section() -> None:
    tree = {"model": {"size": 1, "backend": "a"}, "flag": True, "old": {"unset": None}}
    paths = {
        "model.backend": "compute.backend",
        "flag": "compute.flag",
        "old.unset": "compute.unset",
        "model.missing": "compute.missing",
    }
    moved_tree, moved = move_keys(tree, paths)
    assert moved_tree == {
        "model": {"size": 1},
        "old": {},
        "compute": {"backend": "a", "flag": True},
    }
    assert moved == [("model.backend", "compute.backend"), ("flag", "compute.flag")]
    assert tree["model"] == {"size": 1, "backend": "a"}


def test_both_names_may_be_given_if_they_agree() -> None:
    paths = {"old": "new.key"}
    assert move_keys({"old": 1, "new": {"key": 1}}, paths)[0] == {"new": {"key": 1}}
    with pytest.raises(ValueError, match=r"old is the old name of new\.key; both .* 1 and 2"):
        move_keys({"old": 1, "new": {"key": 2}}, paths)
