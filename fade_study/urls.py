"""URLs of storages and servers: masking their secrets, and short connection timeouts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

SECRET = re.compile(
    r"passw|pwd|passphrase|token|secret|credential|signature|(api|access)[_-]?key|odbc_connect|\b(auth|key|sig)\b", re.I
)
"""Pattern in the names of URL parameters whose values are secret."""
CONNECT = {"mysqlconnector": "connection_timeout", "pg8000": "timeout"} | dict.fromkeys(
    ("mysqldb", "psycopg", "psycopg2", "pymysql"), "connect_timeout"
)
"""Names of the database drivers' connection timeout in seconds."""
CONNECT_SECONDS = 5
"""Connection timeout; most drivers wait for minutes by default."""


def masked_url(url: str) -> str:
    """A URL with its password and secret parameters replaced by ``***``; other text is returned unchanged.

    Passwords may not be percent-encoded as they should be, so everything between the user's colon and the last @ is
    masked.
    """
    if "://" not in url:
        return url

    def mask(parameter: re.Match[str]) -> str:
        name, value = parameter.groups()
        # Keep an @: what looks like a parameter may be part of a password, whose end the @ marks.
        return f"{name}={re.sub('[^@]+', '***', value)}" if SECRET.search(unquote(name)) else parameter[0]

    before, at, host = re.sub(r"([?&#][^=?&#]*)=([^&]*)", mask, url).rpartition("@")
    return re.sub(r"(://[^:/]*:).+", r"\1***", before, count=1, flags=re.DOTALL) + at + host


def place(url: str) -> str:
    """A URL for messages: masked, and with an absolute path for an SQLite file."""
    kind, slashes, path = masked_url(url).partition(":///")
    is_file = kind.startswith("sqlite") and path not in ("", ":memory:")
    return f"{kind}{slashes}{Path(path).absolute()}" if is_file else masked_url(url)


def connect_arguments(url: str) -> dict[str, Any]:
    """Keyword arguments for SQLAlchemy's ``create_engine`` that set a short connection timeout."""
    import sqlalchemy.exc

    try:
        parsed = sqlalchemy.make_url(url)
        name = CONNECT.get(parsed.get_driver_name())
    except (sqlalchemy.exc.SQLAlchemyError, ImportError):  # opening the URL will raise it again
        return {}
    return {} if name is None or name in parsed.query else {"connect_args": {name: CONNECT_SECONDS}}


def masked(text: str) -> str:
    """A text, such as an error message, with every URL in it masked; a URL ends at whitespace."""
    return "".join(masked_url(word) for word in re.split(r"(\s+)", text))
