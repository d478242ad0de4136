"""One HTTP exchange with an anchor, with a bound on its time and on what comes back.

Directly, without a proxy, and no redirect is followed: whoever is named is asked, nobody else.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from provkeep.errors import AnchorError
from provkeep.tlog.anchor import TIMEOUT_S

MAX_ANSWER: Final = 65_536  # bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said."""

    status: int
    content_type: str
    body: bytes


def check_url(url: str) -> str | None:
    """Why this is not the URL of a server, or None."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "it is not a URL"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "it does not begin with http:// or https:// and a host"
    if parts.username or parts.password or parts.query or parts.fragment:
        return "it holds a user, a query or a fragment"
    return None


def post(
    anchor: str, url: str, body: bytes, content_type: str, *, timeout_s: float = TIMEOUT_S
) -> Answer:
    """Send ``body`` and return the answer, whatever its status.

    Args:
        anchor: name of the anchor, for errors.
        url: http or https.
        body: what is sent.
        content_type: of the body.
        timeout_s: for the whole exchange, in seconds: a server that dribbles has no longer.

    Raises:
        AnchorError: no answer in time, or too long an answer; it may pass by itself.
    """
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout_s)
    late = threading.Event()
    open_: list[socket.socket] = []  # a connection forgets its socket once an answer has begun

    def give_up() -> None:
        late.set()
        for sock in open_:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(timeout_s, give_up)
    timer.daemon = True
    timer.start()
    try:
        connection.connect()
        open_.append(connection.sock)
        if late.is_set():
            raise TimeoutError
        headers = {"Content-Type": content_type, "Connection": "close"}
        connection.request("POST", parts.path or "/", body, headers)
        with connection.getresponse() as response:
            found = response.read(MAX_ANSWER + 1)
            status, said = response.status, response.getheader("Content-Type") or ""
    except (OSError, http.client.HTTPException) as error:
        if late.is_set() or isinstance(error, TimeoutError):
            problem = f"{parts.hostname} did not answer within {timeout_s:g} s"
        else:
            problem = f"{parts.hostname} cannot be reached ({type(error).__name__})"
        raise AnchorError(anchor, problem, again=True) from error
    finally:
        timer.cancel()
        connection.close()
    if late.is_set():  # cut off in the middle of an answer without a length
        problem = f"{parts.hostname} did not answer within {timeout_s:g} s"
        raise AnchorError(anchor, problem, again=True)
    if len(found) > MAX_ANSWER:
        raise AnchorError(anchor, f"{parts.hostname} answered with more than {MAX_ANSWER} bytes")
    return Answer(status, said, found)
