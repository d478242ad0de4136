"""Entries cut into record bodies that fit the log's limit."""

from __future__ import annotations

from typing import Any, Final

import orjson

from provkeep.model import records as r
from provkeep.sealing.sealer import Payload

ROOM: Final = 56_000  # bytes of entries in one body; keys, hashes and the head need the rest
PER_PAYLOAD: Final = 60  # bytes that one payload costs in a body
PER_KEY: Final = 80
MEMBERS: Final = 2_000  # members in one entry; more of them follow in entries of their own
SPANS: Final = 1_000  # spans in one derivation; more of them follow in derivations of the same edge
MORE: Final = "M"  # [M, artifact, [members]]

Piece = tuple[list[list[Any]], list[Payload], list[int]]


def cut(entries: list[list[Any]], payloads: list[Payload]) -> list[Piece]:
    """Cut into pieces: entries, their payloads, and the place each payload had before."""
    if len(orjson.dumps(entries)) + PER_PAYLOAD * len(payloads) + _keys(payloads) <= ROOM:
        return [(entries, payloads, list(range(len(payloads))))]
    pieces: list[Piece] = []
    now: Piece = ([], [], [])
    size = 0
    for entry in _small(entries):
        place = _payload_of(entry)
        cost = len(orjson.dumps(entry)) + 1
        if place >= 0:
            cost += PER_PAYLOAD + (PER_KEY if payloads[place].source is not None else 0)
        if size + cost > ROOM and now[0]:
            pieces.append(now)
            now, size = ([], [], []), 0
        if place >= 0:
            now[2].append(place)
            now[1].append(payloads[place])
            entry = _renumbered(entry, len(now[1]) - 1)
        now[0].append(entry)
        size += cost
    pieces.append(now)
    return pieces


def _keys(payloads: list[Payload]) -> int:
    return PER_KEY * (5 + len({p.source for p in payloads if p.source is not None}) * 2)


def _small(entries: list[list[Any]]) -> list[list[Any]]:
    """Entries with long lists of members, payloads or spans spread over several."""
    out: list[list[Any]] = []
    for entry in entries:
        if entry[0] == r.ARTIFACT and len(entry[7].get("m", ())) > MEMBERS:
            members = entry[7]["m"]
            out.append([*entry[:7], {**entry[7], "m": members[:MEMBERS]}])
            out.extend(
                [MORE, entry[1], members[i : i + MEMBERS]]
                for i in range(MEMBERS, len(members), MEMBERS)
            )
        elif entry[0] == r.FINAL and len(entry[3]) > MEMBERS:
            for i in range(0, len(entry[3]), MEMBERS):
                out.append([r.FINAL, entry[1], entry[2], entry[3][i : i + MEMBERS]])
        elif entry[0] == r.DERIVED and len(entry) > 5 and len(entry[5]) > 4 * SPANS:
            numbers = entry[5]  # four make a span
            out.extend(
                [*entry[:5], numbers[i : i + 4 * SPANS]] for i in range(0, len(numbers), 4 * SPANS)
            )
        else:
            out.append(entry)
    return out


def _payload_of(entry: list[Any]) -> int:
    if entry[0] == r.ARTIFACT:
        return int(entry[6])
    if entry[0] == r.META:
        return int(entry[1])
    if entry[0] == r.SOURCE:
        return int(entry[2])
    return -1


def _renumbered(entry: list[Any], place: int) -> list[Any]:
    at = {r.ARTIFACT: 6, r.META: 1, r.SOURCE: 2}[entry[0]]
    return [*entry[:at], place, *entry[at + 1 :]]
