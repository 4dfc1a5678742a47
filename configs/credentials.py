"""Finds credentials in the texts of a config, which is copied into many records.

Records of a run (run.json, checkpoints, MLflow, logs) hold its config, and other people read them.
A config with a credential is therefore refused. Credentials belong in environment variables.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from configs.redact import REDACTED, redact

_VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "s3a": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
    "abfs": "AZURE_STORAGE_ACCOUNT_KEY",
    "abfss": "AZURE_STORAGE_ACCOUNT_KEY",
    "az": "AZURE_STORAGE_ACCOUNT_KEY",
    "hf": "HF_TOKEN",
    "postgresql": "PGUSER and PGPASSWORD",
}
"""The environment variables that the client library of a scheme reads."""


def credentials_in(tree: Any, key: str = "") -> Iterator[str]:
    """One line for each text of `tree` that holds a credential in a URL; shows no credential.

    `tree` is a JSON value. The keys of mappings are searched as well. The line has the dotted path
    of the text and the environment variable to use instead.
    """
    if isinstance(tree, str):
        if "://" in tree and redact(tree, {}) != tree:
            yield _describe(tree, key)
    elif isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from credentials_in(str(name), key)
            # The dotted path is printed as well.
            yield from credentials_in(value, _join(key, redact(str(name), {})))
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from credentials_in(value, _join(key, str(index)))


def _describe(url: str, key: str) -> str:
    scheme = url.partition("://")[0].rpartition(" ")[2].partition("+")[0].lower()
    if key.rpartition(".")[2] == "uri" and scheme in ("http", "https"):
        variables = (
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    else:
        # fsspec reads the options of every file system from variables of this name.
        variables = _VARIABLES.get(scheme, f"FSSPEC_{scheme.upper()}")
    return (
        f"{key or '(file)'}: holds credentials ({redact(url, {})}); everything that records the "
        f"config would hold them too: remove what {REDACTED} stands for and set the environment "
        f"variable {variables}"
    )


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
