"""Paths in configs: ``~`` and environment variables; one value where a list belongs."""

import re
from pathlib import Path

import pytest
from pydantic import Field

from configs.load import Config, ConfigError, fingerprint, load, validate
from configs.paths import ConfigPath, ConfigPathOrUrl, ConfigPathText, expanded


class Paths(Config):
    output: ConfigPath
    sources: tuple[ConfigPathText, ...] = Field(default=("a",), min_length=1)
    files: tuple[ConfigPathText, ...] = ()
    anywhere: tuple[ConfigPathOrUrl, ...] = ()
    numbers: tuple[int, ...] | None = None
    either: str | tuple[str, ...] = "x"
    pair: tuple[float, float] = (0.9, 0.99)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("CORPUS", "/data/corpus")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("MISSING", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("~", "/home/me"),
        ("~/raw/*.jsonl", "/home/me/raw/*.jsonl"),
        ("$CORPUS/a", "/data/corpus/a"),
        ("${CORPUS}_2/a", "/data/corpus_2/a"),
        ("s3://bucket$CORPUS/*", "s3://bucket/data/corpus/*"),
        ("a$EMPTY/b", "a/b"),
        ("price$$5", "price$5"),
        ("a/~/b", "a/~/b"),
        ("a$", "a$"),
        ("cost_5$/b", "cost_5$/b"),
    ],
)
def test_home_and_variables_are_expanded(written: str, meant: str) -> None:
    assert expanded(written) == meant
    assert expanded(meant.replace("$", "$$")) == meant


def test_a_file_of_exactly_this_name_is_meant_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "$MISSING").touch()
    assert expanded("$MISSING") == "$MISSING"


def test_a_url_where_a_path_belongs_is_an_error_that_names_the_key() -> None:
    """As a path it would be that of a folder ``s3:``."""
    tree = {"output": "s3://bucket/rows", "files": "gs://a/*", "anywhere": "s3://$CORPUS/b"}
    with pytest.raises(ConfigError) as error:
        validate(tree, Paths, "a.yaml")
    assert re.findall(r"(\S+): \S+ is a URL", str(error.value)) == ["output", "files.0"]
    found = validate(tree | {"output": "a", "files": "a:b//c"}, Paths, "a.yaml")
    assert found.anywhere == ("s3:///data/corpus/b",)


def test_what_is_not_set_is_an_error_that_names_the_key() -> None:
    tree = {"output": "$MISSING/rows", "files": ["~nobody_at_all/x", "${MISSING}"]}
    with pytest.raises(ConfigError) as error:
        validate(tree, Paths, "a.yaml")
    message = str(error.value)
    assert re.search(r"output: .*environment variable 'MISSING' is not set; set it", message)
    assert re.search(r"files\.0: .*~nobody_at_all has no home folder", message)
    assert "files.1: '${MISSING}'" in message


def test_configs_hold_the_expanded_paths(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("output: ~/rows\nfiles: $CORPUS/*.txt\nnumbers: 3\n")
    (tmp_path / "a.yaml").write_text("extends: ${PARENT}.yaml\neither: one\n")
    with pytest.raises(ConfigError, match=r"'extends': .*'PARENT' is not set"):
        load(tmp_path / "a.yaml", Paths)
    (tmp_path / "a.yaml").write_text("extends: base.yaml\neither: one\n")
    config = load(tmp_path / "a.yaml", Paths)
    assert config.output == Path("/home/me/rows")
    assert config.files == ("/data/corpus/*.txt",)
    assert config.numbers == (3,)
    assert config.either == "one"


def test_an_empty_list_is_a_plain_error() -> None:
    with pytest.raises(ConfigError, match=r"1 error.*\n  sources: empty; give at least 1"):
        validate({"output": "a", "sources": []}, Paths, "a.yaml")
    with pytest.raises(ConfigError, match=r"1 error.*\n  sources\.0: .*not set"):
        validate({"output": "a", "sources": ["$MISSING"]}, Paths, "a.yaml")


def test_one_value_does_not_stand_for_a_list_of_fixed_length() -> None:
    with pytest.raises(ConfigError, match="pair"):
        validate({"output": "a", "pair": 0.5}, Paths, "a.yaml")


def test_a_name_that_is_not_utf_8_has_a_fingerprint() -> None:
    assert fingerprint("na\udcffme") != fingerprint("na\udcfeme")
