"""``erase``, ``retain`` and ``hold``: what is to be forgotten, and what must not be.

What is destroyed is shown first and asked about; ``--yes`` answers beforehand.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Final

import click

from provkeep.cli.output import (
    as_json,
    database,
    note,
    opened,
    progress,
    reader,
    say,
    say_json,
    say_table,
    short_ids,
)
from provkeep.cli.pages import command
from provkeep.reading.answers import clock
from provkeep.reading.erasing import Erasure, Plan

SHOWN: Final = 20  # traces listed of each kind
FROM_STDIN: Final = "-"

_trace = click.option("--trace", metavar="ID", help="A trace's id, or the beginning of one.")
_subject = click.option(
    "--subject",
    metavar="NAME",
    help="A person, as recorded with subject=; - reads the name from standard input, so that it"
    " stands in no list of processes and no history.",
)
_source = click.option("--source", metavar="DOC", help="A source, by name or the end of its path.")
_reason = click.option(
    "--reason", metavar="TEXT", help="Why; sealed in the record. Do not name the person in it."
)
_yes = click.option("--yes", is_flag=True, help="Do not ask.")
_dry = click.option("--dry-run", is_flag=True, help="Only show what would go.")


def plural(count: int, word: str) -> str:
    """A count with its noun."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def _targets(function: Any) -> Any:
    return _trace(_subject(_source(function)))


def _target(trace: str | None, subject: str | None, source: str | None) -> dict[str, str]:
    named = {"trace": trace, "subject": subject, "source": source}
    given = {k: v for k, v in named.items() if v is not None}
    if len(given) != 1:
        raise click.UsageError("name one of --trace, --subject and --source")
    if given.get("subject") == FROM_STDIN:
        given["subject"] = sys.stdin.readline().rstrip("\n")
    return given


def _said(reason: str | None) -> str:
    if reason is None or not reason.strip():
        raise click.UsageError("say why: --reason TEXT")
    return reason


@command(
    "Destroy the keys of a trace, a person or a source.",
    "provkeep erase audit.db --trace 01a20a34 --reason 'entered by mistake'",
    "cat name.txt | provkeep erase audit.db --subject - --reason 'request 17' --yes",
    "provkeep erase audit.db --source old-handbook.pdf --dry-run",
    "provkeep erase audit.db --list",
)
@database
@_targets
@_reason
@_yes
@_dry
@click.option("--finish", is_flag=True, help="Go on with erasures that a reader held back.")
@click.option("--list", "listed", is_flag=True, help="List erasures: when, by whom, why.")
@reader
@as_json
def erase(
    database: Path,
    trace: str | None,
    subject: str | None,
    source: str | None,
    reason: str | None,
    yes: bool,
    dry_run: bool,
    finish: bool,
    listed: bool,
    reader: str | None,
    as_json: bool,
) -> int:
    """Destroy the data keys of a trace, a person or a source in DATABASE, for good.

    Shows what goes, and what stays that came from it, and asks. A signed record says what was
    erased; then the keys are destroyed. The log stays as it is and still verifies. Backups of the
    key file (DATABASE-keys) made before still hold the keys: destroy those, too.
    """
    with opened(database, reader) as trail:
        if listed:
            return _list(trail.erasures(), as_json)
        if finish:
            return _finished(trail.finish_erasures(), as_json)
        target = _target(trace, subject, source)
        with progress("looking") as step:
            plan = trail.plan_erasure(**target, progress=step)  # type: ignore[arg-type]  # its own names
        if dry_run:
            _show(plan, as_json)
            return 0
        why = _said(reason)
        if not yes:
            _show(plan, False, err=as_json)
            if plan.keys:
                click.confirm("Destroy these keys? Nothing brings them back.", abort=True, err=True)
        return _done(trail.erase(plan, reason=why), as_json)


@command(
    "Erase what is older than it may be.",
    "provkeep retain audit.db --older-than 180d --class prompt --yes",
    "provkeep retain audit.db --older-than 3y --dry-run",
    "provkeep retain audit.db --policy --yes",
)
@database
@click.option("--older-than", metavar="AGE", help="180d, 26w, 6m or 3y (days of 24 hours).")
@click.option(
    "--class",
    "classes",
    multiple=True,
    type=click.Choice(["prompt", "output", "document", "tool", "meta"]),
    help="Only this compartment; may be given several times.",
)
@click.option(
    "--policy",
    is_flag=False,
    flag_value="",
    metavar="[FILE]",
    help="Apply the table [retention] of a file; by default config.toml in your configuration.",
)
@_reason
@_yes
@_dry
@reader
@as_json
def retain(
    database: Path,
    older_than: str | None,
    classes: tuple[str, ...],
    policy: str | None,
    reason: str | None,
    yes: bool,
    dry_run: bool,
    reader: str | None,
    as_json: bool,
) -> int:
    r"""Erase from DATABASE what is older than it may be, by the same means as `provkeep erase`.

    A trace is as old as its end; a document as the newest trace that retrieved its source. What
    is under a legal hold stays. A policy is a file with one age for each compartment, or for all:

    \b
        [retention]
        all = "3y"
        prompt = "180d"
    """
    from provkeep.reading.retention import age_us, rules_of, rules_of_file

    if (older_than is None) == (policy is None):
        raise click.UsageError("name one of --older-than and --policy")
    if policy is not None:
        if classes:
            raise click.UsageError("--class belongs to --older-than; a policy names its own")
        rules = rules_of_file(Path(policy) if policy else None)
    else:
        rules = rules_of(older_than or "", classes)
    why = reason or ("retention policy" if policy is not None else f"older than {older_than}")
    now = time.time_ns() // 1000
    answers: list[dict[str, Any]] = []
    code = 0
    with opened(database, reader) as trail:
        for age, names in rules:
            with progress("looking") as step:
                plan = trail.plan_erasure(
                    older_than_us=now - age_us(age), classes=names or None, progress=step
                )
            if not as_json:
                say(f"{', '.join(names) or 'everything'} older than {age}:")
            if dry_run or not plan.keys:
                answers.append(plan.to_dict())
                if not as_json:
                    _show(plan, False)
                continue
            if not yes:
                _show(plan, False, err=as_json)
                click.confirm("Destroy these keys? Nothing brings them back.", abort=True, err=True)
            done = trail.erase(plan, reason=why)
            answers.append(done.to_dict() if done is not None else plan.to_dict())
            if not as_json:
                code = max(code, _done(done, False))
            elif done is not None and done.pending:
                code = 1
    if as_json:
        say_json(answers)
    return code


@command(
    "Keep erasure off what a court may ask for.",
    "cat name.txt | provkeep hold add audit.db --subject - --reason 'case 4711'",
    "provkeep hold remove audit.db --trace 01a20a34 --reason 'case closed'",
    "provkeep hold list audit.db",
)
@click.argument("action", type=click.Choice(["add", "remove", "list"]))
@database
@_targets
@_reason
@reader
@as_json
def hold(
    action: str,
    database: Path,
    trace: str | None,
    subject: str | None,
    source: str | None,
    reason: str | None,
    reader: str | None,
    as_json: bool,
) -> int:
    """Put a trace, a person or a source in DATABASE under a legal hold, lift one, or list them.

    A hold on a person holds all traces of theirs, a held trace also what it retrieved. Neither
    `erase` nor `retain` takes what is held. Each change is a signed record.
    """
    with opened(database, reader) as trail:
        if action == "list":
            found = trail.holds()
            if as_json:
                say_json([each.to_dict() for each in found])
            elif found:
                rows = [
                    (h.record, clock(h.at_us), h.what, h.name, h.actor, h.reason) for h in found
                ]
                say_table(["record", "since", "what", "name", "by", "reason"], rows)
            else:
                note("no holds")
            return 0
        target: Any = _target(trace, subject, source)
        change = trail.hold if action == "add" else trail.lift_hold
        number = change(**target, reason=_said(reason))
    if as_json:
        say_json({"record": number, "action": action})
    else:
        say(f"{'held' if action == 'add' else 'lifted'}: record {number}")
    return 0


def _show(plan: Plan, as_json: bool, *, err: bool = False) -> None:
    if as_json:
        say_json(plan.to_dict())
        return
    tell = note if err else say
    if not plan.keys:
        tell("nothing to erase: no key of it is left")
    else:
        parts = ", ".join(f"{count} {name}" for name, count in plan.payloads.items())
        tell(f"{plural(plan.keys, 'key')} would go, and with them these payloads: {parts}")
    for title, traces, count in (
        ("of traces", plan.traces, plan.trace_count),
        ("something made from it stays in", plan.derived, len(plan.derived)),
    ):
        if traces:
            ids = short_ids([t.id for t in traces])
            tell(f"{title}:")
            for t in traces[:SHOWN]:
                tell(f"  {ids[t.id]}  {clock(t.started_us)}  {t.name}")
            if count > SHOWN:
                tell(f"  and {count - SHOWN} more")
    if plan.sources:
        tell(f"of sources: {', '.join(plan.sources[:SHOWN])}")
    if plan.stays:
        tell(f"documents it retrieved stay with their sources: {', '.join(plan.stays[:SHOWN])}")
    if plan.held:
        tell(f"left out, being under a legal hold: {plan.held}")


def _done(done: Erasure | None, as_json: bool) -> int:
    if as_json:
        say_json(done.to_dict() if done is not None else {"keys": 0})
    elif done is None:
        say("nothing to erase: no key of it is left")
    elif done.pending:
        count = plural(done.keys, "key")
        say(f"record {done.record}: {count} deleted; PENDING while somebody reads the key file")
        note("the next recorder to open or flush goes on, or: provkeep erase DATABASE --finish")
    else:
        say(f"record {done.record}: {plural(done.keys, 'key')} destroyed, in no file any more")
    return 1 if done is not None and done.pending else 0


def _finished(done: bool, as_json: bool) -> int:
    if as_json:
        say_json({"pending": not done})
    else:
        say("nothing is pending" if done else "still PENDING: somebody reads the key file")
    return 0 if done else 1


def _list(found: list[Erasure], as_json: bool) -> int:
    if as_json:
        say_json([each.to_dict() for each in found])
    elif found:
        rows = [
            (e.record, clock(e.at_us), e.what, e.keys, e.actor, e.reason, e.pending and "pending")
            for e in found
        ]
        say_table(["record", "when", "what", "keys", "by", "reason", ""], rows)
    else:
        note("nothing was erased")
    return 0
