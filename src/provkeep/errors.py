"""Every error that provkeep raises on purpose.

An error says what failed, on what, and what to do now. It carries facts as attributes
and never a payload or a key, because messages end up in logs. This is layer 0: it
imports nothing of provkeep.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime


class ProvkeepError(Exception):
    """Base of every error that provkeep raises on purpose."""


# --- sealing -------------------------------------------------------------------------------


class SealingError(ProvkeepError):
    """Sealing, unsealing or handling a key failed."""


class UnknownKeyError(SealingError):
    """The keyring holds no key that a data key was wrapped with."""

    def __init__(self, key_id: str, held: Sequence[str]) -> None:
        super().__init__(
            f"the data key is wrapped with key {key_id!r}, which this keyring does not hold"
            f" (it holds: {', '.join(held) or 'none'}); load it or have its holder re-wrap it"
        )
        self.key_id, self.held = key_id, tuple(held)


class UnsealError(SealingError):
    """An envelope or a wrapped key was altered, moved, or sealed with another key."""

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(f"the {what} does not open: {problem}")
        self.what, self.problem = what, problem


class ErasedError(UnsealError):
    """The key of a payload was destroyed by an erasure."""

    def __init__(self, what: str, record: int, at_us: int) -> None:
        when = datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
        super().__init__(
            what,
            f"it was erased on {when} UTC by record {record};"
            " `provkeep erase --list` says by whom and why",
        )
        self.record, self.at_us = record, at_us


class PolicyError(ProvkeepError):
    """A retention rule, or the file that should hold it, is not one."""

    def __init__(self, where: str, problem: str, remedy: str) -> None:
        super().__init__(f"{where}: {problem}; {remedy}")
        self.where, self.problem, self.remedy = where, problem, remedy


class HeldError(ProvkeepError):
    """Something that was to be erased is under a legal hold."""

    def __init__(self, held: int, records: Sequence[int]) -> None:
        super().__init__(
            f"nothing was erased: {held} of what was asked for is under a legal hold (record"
            f" {', '.join(map(str, records))}); `provkeep hold list` says why, `provkeep hold"
            " remove` lifts one"
        )
        self.held, self.records = held, tuple(records)


class KeyFileError(SealingError):
    """A file that holds keys is missing, malformed, or open to other users."""

    def __init__(self, path: str, problem: str, remedy: str) -> None:
        super().__init__(f"{path}: {problem}; {remedy}")
        self.path, self.problem, self.remedy = path, problem, remedy


class RecipientsError(SealingError):
    """The public keys that a recorder seals to are not those that the admin named."""

    def __init__(self, problem: str, path: object = None) -> None:
        super().__init__(
            f"{path or 'recipients'}: {problem}; nothing is sealed to them. Get the file that the"
            " admin signed, and compare the admin's key with the one that the admin tells you"
        )
        self.problem, self.path = problem, path


class ProviderError(SealingError):
    """A key provider is absent, slow, or refused."""

    def __init__(self, provider: str, problem: str, remedy: str) -> None:
        super().__init__(f"key provider {provider}: {problem}; {remedy}")
        self.provider, self.problem, self.remedy = provider, problem, remedy


class GrantError(SealingError):
    """A grant is malformed, altered, or somebody else's."""

    def __init__(self, grant: str, problem: str) -> None:
        super().__init__(f"grant {grant}: {problem}; nothing is opened with it, ask for a new one")
        self.grant, self.problem = grant, problem


class RefusedError(SealingError):
    """A reader may not open what was asked for. ``why`` is one word for programs."""

    def __init__(self, why: str, problem: str, remedy: str) -> None:
        super().__init__(f"refused: {problem}; {remedy}")
        self.why, self.problem, self.remedy = why, problem, remedy


# --- transparency log ----------------------------------------------------------------------


class LogError(ProvkeepError):
    """The log, or something that claims to speak about it, is wrong."""


class ProofError(LogError):
    """An inclusion or consistency proof does not show what it claims."""

    def __init__(self, claim: str, problem: str) -> None:
        super().__init__(f"no proof that {claim}: {problem}")
        self.claim, self.problem = claim, problem


class CheckpointError(LogError):
    """A checkpoint or a log key is malformed, unsigned, or signed by someone else."""

    def __init__(self, origin: str, problem: str) -> None:
        super().__init__(f"checkpoint of log {origin!r}: {problem}; do not rely on it")
        self.origin, self.problem = origin, problem


class LogKeyError(LogError):
    """The log's signing key is not the one that this host holds, or cannot be changed."""

    def __init__(self, origin: str, problem: str) -> None:
        super().__init__(f"the key of log {origin!r}: {problem}")
        self.origin, self.problem = origin, problem


class PinError(LogError):
    """A pin is missing or malformed, so the log cannot be compared with it."""

    def __init__(self, problem: str, path: str | None = None) -> None:
        super().__init__(
            f"{path or 'pin'}: {problem}; restore it from a copy made when the log was known good"
        )
        self.problem, self.path = problem, path


class PinMismatchError(LogError):
    """The log is not a continuation of what was remembered of it outside."""

    def __init__(self, problem: str, path: str | None = None) -> None:
        super().__init__(
            f"{path or 'pin'}: {problem}; the pin stays as it is: run `provkeep verify`, and keep"
            " the file as evidence"
        )
        self.problem, self.path = problem, path


class TilesError(LogError):
    """A log could not be written out as tiles."""

    def __init__(self, folder: object, problem: str) -> None:
        super().__init__(
            f"{folder}: {problem}; no checkpoint was written: run `provkeep verify`, or export into"
            " an empty folder"
        )
        self.folder, self.problem = folder, problem


class AnchorError(LogError):
    """An anchor could not be reached, refused, or its proof is not good."""

    def __init__(self, anchor: str, problem: str, *, again: bool = False) -> None:
        super().__init__(
            f"anchor {anchor!r}: {problem}; recording goes on, `provkeep anchor run` tries again"
        )
        self.anchor, self.problem = anchor, problem
        self.again = again  # it may pass by itself


class AnchorConflictError(AnchorError):
    """An anchor has seen another history of this log, or a longer one."""


class AnchorFileError(LogError):
    """The file that says which anchors there are is malformed or cannot be used."""

    def __init__(self, path: object, problem: str) -> None:
        super().__init__(f"{path}: {problem}; mend it, or restore it from a copy")
        self.path, self.problem = path, problem


# --- export --------------------------------------------------------------------------------


class ExportError(ProvkeepError):
    """An exported document, or what was to be exported, is not what the format allows."""

    def __init__(self, problem: str, where: str = "") -> None:
        super().__init__(f"{where or 'document'}: {problem}")
        self.problem, self.where = problem, where


class MissingExtraError(ProvkeepError):
    """A feature needs a package that is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f'{package} is not installed; run: pip install "provkeep[{extra}]"')
        self.package, self.extra = package, extra


# --- stores --------------------------------------------------------------------------------


class StoreError(ProvkeepError):
    """The database could not do what was asked."""


class NotAProvkeepFileError(StoreError):
    """The file is missing, not a database, or not one of ours."""

    def __init__(self, path: object, problem: str) -> None:
        super().__init__(
            f"{path} is not a provkeep file: {problem}; check the path, or run `provkeep init`"
            " on a new one"
        )
        self.path, self.problem = path, problem


class StoreNewerError(StoreError):
    """The file was written by a newer provkeep."""

    def __init__(self, path: object, found: int, known: int) -> None:
        super().__init__(
            f"{path} has schema {found}, this provkeep knows {known} and older; upgrade provkeep"
        )
        self.path, self.found, self.known = path, found, known


class StoreLockedError(StoreError):
    """Another process held the file for longer than the time allowed."""

    def __init__(self, path: object) -> None:
        super().__init__(f"{path} stayed locked by another process; end that process and try again")
        self.path = path


class StoreFullError(StoreError):
    """The disk, or a quota on it, is full."""

    def __init__(self, path: object) -> None:
        super().__init__(f"{path} could not grow: the disk is full; free space, recording resumes")
        self.path = path


class StoreReadOnlyError(StoreError):
    """The file or its folder may not be written."""

    def __init__(self, path: object) -> None:
        super().__init__(
            f"{path} may not be written; allow writing the file and its folder, or open a copy"
        )
        self.path = path


class StoreReplacedError(StoreError):
    """The file is not the one that was opened: deleted, replaced or rolled back."""

    def __init__(self, path: object) -> None:
        super().__init__(
            f"{path} was deleted, replaced or rolled back under the running recorder; put the"
            " original back, or start again on a new file and keep both"
        )
        self.path = path


# --- recording and reading -----------------------------------------------------------------


class RecordingError(ProvkeepError):
    """Something that passed by could not be recorded."""

    def __init__(self, lost: int, pending: int, cause: str) -> None:
        super().__init__(
            f"recording failed ({cause}); {lost} events lost, {pending} traces still waiting to be"
            " written; remedy the cause and call flush() again"
        )
        self.lost, self.pending, self.cause = lost, pending, cause


class UnknownIdError(ProvkeepError):
    """No trace, run or artifact has this id."""

    def __init__(self, what: str, wanted: str) -> None:
        super().__init__(f"no {what} {wanted!r} in this store; `provkeep runs` lists what there is")
        self.what, self.wanted = what, wanted


class NothingRecordedError(UnknownIdError):
    """The store is still empty."""

    def __init__(self) -> None:
        ProvkeepError.__init__(
            self, "nothing has been recorded in this store yet; pass its handler to a chain first"
        )
        self.what, self.wanted = "trace", "newest"


class NotRecordedError(ProvkeepError):
    """A text was asked for of a trace that was recorded without payloads."""

    def __init__(self, artifact: str) -> None:
        super().__init__(
            f"there is no text of {artifact}: its trace was recorded with payloads=False, which"
            " keeps what ran and what came from what"
        )
        self.artifact = artifact


class AmbiguousIdError(ProvkeepError):
    """A prefix fits several."""

    def __init__(self, wanted: str, fits: Sequence[str]) -> None:
        some = ", ".join(fits[:4]) + ("…" if len(fits) > 4 else "")
        super().__init__(f"{wanted!r} fits several: {some}; type more of it")
        self.wanted, self.fits = wanted, tuple(fits)


class AccessNotRecordedError(ProvkeepError):
    """A payload was not opened because the access could not be recorded."""

    def __init__(self, cause: str) -> None:
        super().__init__(f"nothing was opened, because the access could not be recorded: {cause}")
        self.cause = cause
