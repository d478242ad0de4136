"""A server on the loopback interface that accepts everything: what recorders send to, here.

It runs in a process of its own, so that its CPU is on nobody's bill. ``GET /_stats`` says how many
requests with a body came and how many bytes those bodies had.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.request import urlopen

STATS: Final = "/_stats"
_seen = {"requests": 0, "bytes": 0}


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> int:
    """Read a body and forget it; its length."""
    if "chunked" not in headers.get("transfer-encoding", ""):
        length = int(headers.get("content-length", "0"))
        if length:
            await reader.readexactly(length)
        return length
    total = 0
    while size := int((await reader.readline()).split(b";")[0] or b"0", 16):
        await reader.readexactly(size + 2)
        total += size
    await reader.readline()
    return total


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while line := await reader.readline():
            _, path, _ = line.decode("latin-1").split(" ", 2)
            headers: dict[str, str] = {}
            while (raw := await reader.readline()) not in (b"\r\n", b"\n", b""):
                name, _, value = raw.decode("latin-1").partition(":")
                headers[name.strip().lower()] = value.strip().lower()
            if headers.get("expect") == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            length = await _body(reader, headers)
            answer, kind = b"{}", b"application/json"
            if path == STATS:
                answer = json.dumps(_seen).encode()
            elif length:
                _seen["requests"] += 1
                _seen["bytes"] += length
            if "protobuf" in headers.get("content-type", ""):
                answer, kind = b"", b"application/x-protobuf"
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s"
                % (kind, len(answer), answer)
            )
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError, ValueError):
        pass
    finally:
        writer.close()


async def _main() -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", 0, limit=2**20)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


@contextmanager
def running() -> Iterator[str]:
    """A sink in its own process; its address."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__))], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait()


def received(address: str) -> dict[str, int]:
    """Requests with a body so far, and their bytes."""
    with urlopen(address + STATS) as answer:
        return dict(json.load(answer))


if __name__ == "__main__":
    asyncio.run(_main())
