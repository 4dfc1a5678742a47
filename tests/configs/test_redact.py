"""No credential passes `redact`, and nothing else is changed."""

import logging

import pytest

from configs import log
from configs.redact import redact

SECRET = "hunter2-very-secret"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"https://me:{SECRET}@host/path", "https://***@host/path"),
        (f"https://me:{SECRET}@host:5000/path", "https://***@host:5000/path"),
        (f"postgresql+psycopg2://me:a@{SECRET}@host/db", "postgresql+psycopg2://***@host/db"),
        (f"http://me:a/{SECRET}@host/db failed", "http://***@host/db failed"),
        (f"http://{SECRET}@host", "http://***@host"),
        (f"s3://b/rows?token={SECRET}&part=3", "s3://b/rows?token=***&part=3"),
        (f"s3://b/rows?part=3&access_token={SECRET}", "s3://b/rows?part=3&access_token=***"),
        (f"https://h/a?key={SECRET}", "https://h/a?key=***"),
        (f"https://h/a?sig={SECRET}&se=1", "https://h/a?sig=***&se=1"),
        (f"https://h/a?Signature={SECRET}#top", "https://h/a?Signature=***#top"),
        (
            f"https://h/a?X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}&x=1",
            "https://h/a?X-Amz-Credential=***&X-Amz-Signature=***&x=1",
        ),
        (f"Authorization: Bearer {SECRET}, retried", "Authorization: Bearer ***, retried"),
        (
            f"'http://a:{SECRET}@h' and \"http://b:{SECRET}@h\"",
            "'http://***@h' and \"http://***@h\"",
        ),
    ],
)
def test_credentials_in_a_text_are_replaced(text: str, expected: str) -> None:
    assert redact(text, {}) == expected


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////runs/a@b/mlflow.db",
        "http://host:5000/path/a@b",
        "http://127.0.0.1:5000 cannot be reached",
        "s3://bucket/path?versionId=3",
        "model.mask_token=<mask> tokens=3",
        "write to someone@example.org",
        "loss 2.5, a basic test, the bearer of news",
        "",
    ],
)
def test_a_text_without_credentials_is_not_changed(text: str) -> None:
    assert redact(text, {}) == text


def test_values_of_secret_environment_variables_are_replaced() -> None:
    environment = {
        "HF_TOKEN": SECRET,
        "AWS_SECRET_ACCESS_KEY": f"{SECRET}-and-longer",
        "GOOGLE_APPLICATION_CREDENTIALS": "/home/me/key.json",
        "TOKENIZERS_PARALLELISM": "false-value",
        "SHORT_TOKEN": "1",
    }
    text = f"{SECRET}-and-longer, {SECRET}, /home/me/key.json, false-value, 1"
    assert redact(text, environment) == "***, ***, /home/me/key.json, false-value, 1"


def test_the_environment_of_this_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    assert redact(f"401 for {SECRET}") == "401 for ***"


def test_nested_values_are_redacted_and_numbers_stay() -> None:
    tree = {
        "uri": f"http://me:{SECRET}@host",
        "list": [f"a?token={SECRET}", 3],
        "options": {"password": SECRET, "Secret": SECRET, "mask_token": "<mask>", "run_key": "k"},
        "loss": 1.5,
        "token": None,
    }
    assert redact(tree, {}) == {
        "uri": "http://***@host",
        "list": ["a?token=***", 3],
        "options": {"password": "***", "Secret": "***", "mask_token": "<mask>", "run_key": "k"},
        "loss": 1.5,
        "token": None,
    }


def test_log_messages_and_tracebacks_are_redacted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    log.configure(rank=0)
    logger = logging.getLogger("configs.test")
    logger.info("%s cannot be reached", f"http://me:{SECRET}@host")
    try:
        raise ValueError(f"the server answered {SECRET}")
    except ValueError:
        logger.exception("not sent")
    written = capsys.readouterr().out
    assert "rank 0 INFO http://***@host cannot be reached" in written
    assert "ValueError: the server answered ***" in written
    assert SECRET not in written
