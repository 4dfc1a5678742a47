"""A config with credentials in a URL is refused, wherever the URL stands."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.credentials import credentials_in
from configs.load import ConfigError, load
from data_prep.config import DataConfig
from pipeline.run.config import TrainConfig

SECRET = "hunter2-very-secret"


@pytest.mark.parametrize(
    ("tree", "key", "variable"),
    [
        ({"tracking": {"uri": f"https://me:{SECRET}@h"}}, "tracking.uri", "MLFLOW_TRACKING_PASS"),
        ({"tracking": {"uri": f"postgresql+psycopg2://{SECRET}@h/d"}}, "tracking.uri", "PGPASS"),
        ({"data": {"url": f"s3://{SECRET}@bucket/rows"}}, "data.url", "AWS_SECRET_ACCESS_KEY"),
        ({"data": {"url": f"https://h/rows?token={SECRET}"}}, "data.url", "FSSPEC_HTTPS"),
        (
            {"sources": [{"paths": ["a", f"ftp://u:{SECRET}@h/a"]}]},
            "sources.0.paths.1",
            "FSSPEC_FTP",
        ),
        ({"then": [{"data": {"url": f"hf://x:{SECRET}@d"}}]}, "then.0.data.url", "HF_TOKEN"),
        ({"weights": {f"https://u:{SECRET}@h": 1}}, "weights", "FSSPEC_HTTPS"),
        ({"url": f"abfss://box:{SECRET}@account/p"}, "url", "AZURE_STORAGE_ACCOUNT_KEY"),
    ],
)
def test_credentials_are_found_and_not_shown(tree: dict[str, Any], key: str, variable: str) -> None:
    (line,) = credentials_in(tree)
    assert line.startswith(f"{key}: ")
    assert variable in line
    assert SECRET not in line


@pytest.mark.parametrize(
    "text",
    [
        *("https://host:5000/a@b", "sqlite:////runs/a@b.db", "s3://bucket/p?versionId=3"),
        *("abfss://container@account.dfs.core.windows.net/rows", "https://***@host", "a;key=3"),
    ],
)
def test_other_texts_are_allowed(text: str) -> None:
    assert list(credentials_in({"a": [text]})) == []


@pytest.mark.parametrize("schema", [TrainConfig, DataConfig])
def test_the_error_stands_among_the_other_errors_of_the_config(schema: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    url = f"https://me:{SECRET}@host/rows"
    path.write_text(yaml.safe_dump({"unknown": 1, "output": {"x": url}}))
    with pytest.raises(ConfigError) as caught:
        load(path, schema, [f"sources=[{url}]"])
    message = str(caught.value)
    assert "unknown: unknown key" in message
    assert "output.x: holds credentials" in message
    assert "sources.0: holds credentials" in message
    assert SECRET not in message
