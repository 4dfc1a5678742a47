"""Config loading: parents, overrides, and every error of a file at once."""

import json
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import AfterValidator, Field, model_validator

from configs.load import Config, ConfigError, fingerprint, load, read_tree

ROBERTA_BASE = {
    **{"model_type": "roberta", "vocab_size": 50265, "hidden_size": 768, "num_hidden_layers": 12},
    **{"num_attention_heads": 12, "intermediate_size": 3072, "max_position_embeddings": 514},
    **{"type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1, "bos_token_id": 0},
}
"""config.json of the model that a shipped config may continue."""
ROOT = Path(__file__).parents[2]


class Square(Config):
    type: Literal["square"] = "square"
    side: float = 1.0


class Circle(Config):
    type: Literal["circle"] = "circle"
    radius: float = 1.0


class Drawing(Config):
    title: str
    learning_rate: float = 1e-3
    shape: Annotated[Square | Circle, Field(discriminator="type")] = Square()
    shapes: list[Annotated[Square | Circle, Field(discriminator="type")]] = []  # noqa: RUF012


def known_language(code: str) -> str:
    if len(code) != 2:
        raise ValueError(f"no {code!r} is known")
    return code


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_parents_merge_and_a_changed_type_replaces(tmp_path: Path) -> None:
    write(tmp_path, "parent.yaml", "title: parent\nshape: {type: square, side: 4}\n")
    child = write(tmp_path, "child.yaml", "extends: parent.yaml\nshape: {side: 5}\n")
    assert load(child, Drawing) == Drawing(title="parent", shape=Square(side=5))
    other = write(tmp_path, "other.yaml", "extends: parent.yaml\nshape: {type: circle}\n")
    assert load(other, Drawing).shape == Circle()


def test_overrides_are_yaml_and_reach_into_lists(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "title: x\nshapes: [{type: circle}]\n")
    config = load(
        path, Drawing, ["title=new", "learning_rate=1e-4", "shapes.0.radius=3", "shape.side=2"]
    )
    assert config.learning_rate == 1e-4
    assert config.title == "new"
    assert config.shapes == [Circle(radius=3)]
    assert config.shape == Square(side=2)


def test_all_errors_are_reported_at_once_with_suggestions(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "bad.yaml",
        "titel: x\nshape: {type: circle, radus: 2}\n"
        "shapes: [{type: hexagon}, {type: square, side: s}]\n",
    )
    with pytest.raises(ConfigError) as caught:
        load(path, Drawing)
    message = str(caught.value)
    assert "bad.yaml: 5 error(s)" in message
    assert "title: required, but missing" in message
    assert "titel: unknown key; did you mean 'title'?" in message
    assert "shape.radus: unknown key; did you mean 'radius'?" in message
    assert "shapes.0: unknown type 'hexagon'; types: square, circle" in message
    assert "shapes.1.side: " in message


class Gallery(Config):
    drawings: dict[Annotated[str, Field(pattern="^[a-z]+$")], Drawing]
    language: Literal["detect"] | Annotated[str, AfterValidator(known_language)] = "detect"
    titles: tuple[str, ...] = ()
    size: float | Square = 1.0
    step: int | Literal["newest"] = 1

    @model_validator(mode="after")
    def _has_titles(self) -> "Gallery":
        if self.titles == ("none",):
            raise ValueError("titles: no titles are none")
        return self


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a: {title: x, learning_rat: 1}", ["unknown key; did you mean 'learning_rate'?"]),
        ("a: {title: x, shape: {type: circle, radus: 1}}", ["did you mean 'radius'?"]),
        ("a: {title: x, shape: {type: circl}}", ["  drawings.a.shape: unknown type 'circl'; did"]),
        ("a: {title: x, shapes: [{side: 1}]}", ["without `type`; types: square, circle"]),
        (
            "a: {title: x, shape: {radius: 2}}",
            [
                "shape.radius: unknown key of the type 'square'; 'radius' is one of 'circle': set "
                "drawings.a.shape.type"
            ],
        ),
        ("a: {title: x, shapes: [{type: square, radus: 2}]}", ["'radius' is one of 'circle': set"]),
        ("Ä: {title: x}", ["  drawings.Ä: String should match pattern"]),
        ("a: x", ["  drawings.a: should be a mapping (key: value), got 'x'"]),
        (
            "a: {title: x}\nlanguage: german",
            [
                "1 error(s)",
                "  language: no 'german' is known; or should be 'detect', got 'german'",
            ],
        ),
        (
            "a: {title: x}\nsize: big",
            ["  size: should be a valid number or a mapping (key: value)"],
        ),
        (
            "a: {title: x}\nsize: {type: square, radius: 1}",
            ["1 error(s)", "  size.radius: unknown"],
        ),
        ("a: {title: x}\nstep: oldest", ["  step: should be a valid integer or 'newest', got "]),
        ("a: {title: x}\ntitles: {a: b}", ["  titles: should be a list, got {'a': 'b'}"]),
        ("a: {title: x}\ntitles: [none]", ["\n  titles: no titles are none"]),
    ],
)
def test_errors_have_the_path_of_the_file_and_what_is_known_there(
    tmp_path: Path, text: str, lines: list[str]
) -> None:
    path = write(tmp_path, "bad.yaml", f"drawings:\n  {text}\n")
    with pytest.raises(ConfigError) as caught:
        load(path, Gallery)
    for line in lines:
        assert line in str(caught.value)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("a: [", [], "not valid YAML"),
        ("- 1\n- 2\n", [], "must be 'key: value' lines, not a list"),
        ("title: a\ntitle: b\n", [], "the key 'title' appears twice"),
        ("title: x", ["title"], "write it as key.sub=value"),
        ("title: x", ["title.sub=1"], "title is 'x', which has no keys"),
        ("title: x\nshapes: []", ["shapes.0.side=1"], "shapes is a list of 0"),
        ("extends: a.yaml\n", [], "'extends' is circular"),
        ("extends: nowhere.yaml\n", [], "nowhere.yaml: no such config file"),
        ("extends: .\n", [], "is a folder: give the config file"),
    ],
)
def test_unusable_files_and_overrides_are_explained(
    tmp_path: Path, text: str, overrides: list[str], message: str
) -> None:
    path = write(tmp_path, "a.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load(path, Drawing, overrides)
    assert message in str(caught.value)


def test_fingerprint_is_of_the_content_not_the_spelling(tmp_path: Path) -> None:
    first = write(tmp_path, "a.yaml", "title: x\nlearning_rate: 1e-3\n")
    second = write(tmp_path, "b.yaml", "learning_rate: 0.001\ntitle: x\n")
    assert fingerprint(load(first, Drawing)) == fingerprint(load(second, Drawing))
    assert fingerprint(load(first, Drawing)) != fingerprint(load(first, Drawing, ["title=y"]))


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_config_is_valid(path: Path, tmp_path: Path) -> None:
    from data_prep.config import DataConfig
    from pipeline.finetuning.run_config import load_run

    if path.name.startswith("data_"):
        load(path, DataConfig)
        return
    overrides = []
    kind = read_tree(path).get("start", {}).get("type")
    if kind == "hugging_face":
        (tmp_path / "config.json").write_text(json.dumps(ROBERTA_BASE))
        overrides = [f"start.path={tmp_path}"]  # a model that only its user has
    elif kind == "run" and path.name.startswith("modern"):
        overrides = ["start={type: scratch}"]
    load_run(path, overrides)
