"""URLs of storages and servers: shown without their secrets, and given up soon where nobody answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

__all__ = ["connect_arguments", "masked", "masked_url", "place"]

SECRET = re.compile(
    r"passw|pwd|passphrase|token|secret|credential|signature|(api|access)[_-]?key|odbc_connect|\b(auth|key|sig)\b", re.I
)
"""In the name of a URL's parameter: its value is nobody's business."""
CONNECT = {"mysqlconnector": "connection_timeout", "pg8000": "timeout"} | dict.fromkeys(
    ("mysqldb", "psycopg", "psycopg2", "pymysql"), "connect_timeout"
)
"""What drivers of databases call the seconds that they wait for a server."""
CONNECT_SECONDS = 5
"""By default most of them wait for minutes."""


def masked_url(url: str) -> str:
    """A URL without its password and secret parameters; what has none comes back as it is.

    Passwords are not always encoded as they should be: all between a user's colon and the last @ is taken for one.
    """
    if "://" not in url:
        return url

    def mask(parameter: re.Match[str]) -> str:
        name, value = parameter.groups()
        # An @ is kept: the parameter may be within a password, whose end it marks.
        return f"{name}={re.sub('[^@]+', '***', value)}" if SECRET.search(unquote(name)) else parameter[0]

    before, at, host = re.sub(r"([?&#][^=?&#]*)=([^&]*)", mask, url).rpartition("@")
    return re.sub(r"(://[^:/]*:).+", r"\1***", before, count=1, flags=re.DOTALL) + at + host


def place(url: str) -> str:
    """A URL as users are told of it: masked, and a file by its whole path, since they may be in another folder."""
    kind, slashes, path = masked_url(url).partition(":///")
    is_file = kind.startswith("sqlite") and path not in ("", ":memory:")
    return f"{kind}{slashes}{Path(path).absolute()}" if is_file else masked_url(url)


def connect_arguments(url: str) -> dict[str, Any]:
    """For SQLAlchemy's ``create_engine``: a server that can't be reached is to be told soon."""
    import sqlalchemy.exc

    try:
        parsed = sqlalchemy.make_url(url)
        name = CONNECT.get(parsed.get_driver_name())
    except (sqlalchemy.exc.SQLAlchemyError, ImportError):  # which to open it will tell of
        return {}
    return {} if name is None or name in parsed.query else {"connect_args": {name: CONNECT_SECONDS}}


def masked(text: str) -> str:
    """A text, such as an error's, with every URL in it masked; a URL ends at a space."""
    return "".join(masked_url(word) for word in re.split(r"(\s+)", text))
