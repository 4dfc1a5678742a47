"""Removes credentials from text and from JSON values before they are logged or recorded.

A log or a run's record may be read by people who must not have the credentials of the person who
started the run. Everything that is written for people or for MLflow passes `redact`.
"""

import os
import re
from collections.abc import Mapping
from typing import Any, TypeVar

ValueT = TypeVar("ValueT")

REDACTED = "***"

SECRET_KEYS = frozenset(
    (
        *("password", "passwd", "secret", "token", "credential", "credentials", "private_key"),
        *("api_key", "apikey", "access_key", "secret_key", "account_key", "client_secret"),
        *("access_token", "auth_token", "session_token", "secret_access_key", "access_key_id"),
    )
)
"""Keys of a mapping whose text is a credential."""

SECRET_NAME_PARTS = frozenset(
    (
        *("TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASS", "KEY", "APIKEY", "PAT"),
        *("CREDENTIAL", "CREDENTIALS"),
    )
)
"""Parts, between underscores, of the names of environment variables that hold credentials."""

MIN_SECRET_CHARACTERS = 8
"""Shorter values of environment variables are not searched for: they occur by chance."""

_PARAMETER_NAMES = (
    r"[\w.-]*(?:token|secret|signature|password|passwd|credential|api[_-]?key|access[_-]?key)"
    r"[\w.-]*"
    r"|AWSAccessKeyId|X-(?:Amz|Goog)-[\w-]+|key|sig|pwd|pass|auth|code"
)
_PATTERNS = (
    # user:password@ of an address. A password may hold ':' and '@'. In Azure's addresses,
    # abfss://container@account/path, the text before '@' is no user unless it holds ':'.
    (
        re.compile(r"(?<=://)(?<!abfs://)(?<!abfss://)(?<!wasb://)(?<!wasbs://)[^/\s'\"<>]*@"),
        f"{REDACTED}@",
    ),
    # The same with a password that holds '/' or '?', which should have been escaped. A number
    # between ':' and '/' is a port.
    (re.compile(r"(?<=://)[^/\s:'\"<>]*:(?!\d*/)[^\s'\"<>]*@"), f"{REDACTED}@"),
    # Parameters of a query, also where they follow '#'.
    (re.compile(rf"(?i)([?&#;](?:{_PARAMETER_NAMES})=)[^&#;\s'\"<>]*"), rf"\g<1>{REDACTED}"),
    # Headers of HTTP in an error message.
    (
        re.compile(
            r"(?i)(\bauthorization['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic)\s+)?)[\w+/=.~-]+"
        ),
        rf"\g<1>{REDACTED}",
    ),
)


def redact(value: ValueT, environment: Mapping[str, str] | None = None) -> ValueT:
    """`value` with *** for each credential: in a text, and in every text of a mapping or list.

    Credentials are user and password in an address, parameters of a query such as ``token=`` and
    ``X-Amz-Signature=``, HTTP authorization headers, the values of environment variables whose name
    says that they are secret (``HF_TOKEN``, ``AWS_SECRET_ACCESS_KEY``), and the text under a key
    such as ``password``. `environment` is that of this process by default.
    """
    secrets = _environment_secrets(os.environ if environment is None else environment)
    result: ValueT = _redact(value, secrets)
    return result


def _redact(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, str):
        return _redact_text(value, secrets)
    if isinstance(value, Mapping):
        return {
            _redact(key, secrets): (
                REDACTED
                if isinstance(item, str) and str(key).lower() in SECRET_KEYS
                else _redact(item, secrets)
            )
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_redact(item, secrets) for item in value]
    return value


def _redact_text(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    if "://" in text or "=" in text or " " in text:
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
    return text


def _environment_secrets(environment: Mapping[str, str]) -> list[str]:
    """The values to remove, the longest first: one may contain another."""
    found = {
        value
        for name, value in environment.items()
        if len(value) >= MIN_SECRET_CHARACTERS
        and not value.startswith("/")  # the path of a file that holds a secret is none
        and not SECRET_NAME_PARTS.isdisjoint(name.upper().split("_"))
    }
    return sorted(found, key=lambda value: (-len(value), value))
