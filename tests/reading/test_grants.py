"""A role opens its compartments, for whom it was granted, until it ends; all else is refused."""

import json
import secrets
import sqlite3
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough

import provkeep
from provkeep.errors import (
    AccessNotRecordedError,
    GrantError,
    KeyFileError,
    RecipientsError,
    RefusedError,
    SealingError,
    UnknownIdError,
    UnsealError,
)
from provkeep.langchain import ProvenanceHandler
from provkeep.model import records as r
from provkeep.model.records import COMPARTMENTS, unb64
from provkeep.reading import access
from provkeep.reading.granting import Office, roles
from provkeep.recording.rotation import rotate_compartments
from provkeep.sealing.home import home_dir
from provkeep.sealing.principals import Principal, PublicPrincipal, new_principal, write_principal
from provkeep.sealing.signing import new_seed
from provkeep.sealing.suites import HYBRID

DOCUMENT = (
    "Goods may be returned within thirty days of purchase, unused and in their wrapping, to any of"
    " the shops of the company."
)
ANSWER = "Yes: thirty days, I should think."
DAY_US = 86_400_000_000
FAR = 4_000_000_000_000_000  # 2096
ALICE, BOB = new_principal("alice@example.com"), new_principal("bob@example.com")


def record(database: Path) -> None:
    shelf = RunnableLambda(
        lambda _: [Document(page_content=DOCUMENT, metadata={"source": "docs/handbook.pdf"})]
    )
    prompt = ChatPromptTemplate.from_messages([("system", "From: {law}"), ("human", "{q}")])
    model = GenericFakeChatModel(messages=iter([AIMessage(ANSWER)]))
    law = shelf | RunnableLambda(lambda found: found[0].page_content)
    chain = {"law": law, "q": RunnablePassthrough()} | prompt | model | StrOutputParser()
    with ProvenanceHandler(database, actor="carol", subject="customer 4711") as handler:
        chain.invoke("Until when?", config={"callbacks": [handler]})


@pytest.fixture
def database(tmp_path: Path, home: Path) -> Path:
    record(tmp_path / "audit.db")
    return tmp_path / "audit.db"


def grant(database: Path, role: str, to: Principal = ALICE, **more: Any) -> str:
    terms: dict[str, Any] = {"purpose": "complaint 4711", "until_us": FAR, **more}
    with Office(database, actor="the admin") as office:
        return str(office.grant(role, to.public, **terms)["id"])


def artifact(trail: provkeep.Trail, kind: str) -> str:
    return next(n.id for n in trail.run().nodes if n.kind == kind)


def refusals(database: Path) -> list[tuple[str | None, str]]:
    with provkeep.open(database) as trail:
        assert trail.verify()
        return [(a.why, a.actor) for a in trail.accesses() if a.what == "refused"]


def test_each_role_opens_its_compartments_and_nothing_else(database: Path, home: Path) -> None:
    for role, opens in (("auditor", set()), ("reviewer", {"text"}), ("privacy-officer", None)):
        reader = new_principal(role)
        grant(database, role, reader)
        with provkeep.open(database, as_=reader) as trail:
            assert trail.lineage().nodes and trail.verify()
            for kind in ("text", "document"):
                if opens is None or kind in opens:
                    assert trail.text(artifact(trail, kind), purpose="check")
                else:
                    with pytest.raises(RefusedError, match="ask the admin") as caught:
                        trail.text(artifact(trail, kind), purpose="check")
                    assert caught.value.why == "scope"
    assert refusals(database) == [
        ("scope", "reviewer"),
        ("scope", "auditor"),
        ("scope", "auditor"),
    ]


def test_a_grant_is_enough_without_any_other_key(
    database: Path, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Database, key file, and the reader's own key: nothing of the recorder's."""
    grant(database, "privacy-officer")
    write_principal(ALICE, tmp_path / "alice.key")
    monkeypatch.setenv("PROVKEEP_HOME", str(tmp_path / "another machine"))
    with provkeep.open(database, as_=tmp_path / "alice.key") as trail:
        assert trail.text(purpose="complaint 4711") == ANSWER
        assert trail.runs()[0].actor == "carol"
        assert trail.impact("handbook.pdf").outputs
        (mine,) = trail.accesses(source="handbook.pdf")
        assert (mine.actor, mine.purpose) == ("alice@example.com", "complaint 4711")
    assert not (tmp_path / "another machine").exists(), "it needs no key of this user's own"


@pytest.mark.parametrize("suite", ["x25519", HYBRID])
def test_an_access_names_who_when_why_and_the_grant_and_is_signed_by_the_reader(
    database: Path, suite: str
) -> None:
    reader = new_principal("alice@example.com", suite)
    name = grant(database, "reviewer", reader)
    before = time.time_ns() // 1000
    with provkeep.open(database, as_=reader) as trail:
        trail.text(purpose="complaint 4711")
    with provkeep.open(database) as trail:
        trail.text(purpose="by the owner")
        mine, theirs = (a for a in trail.accesses() if a.what == "payload")
        assert (theirs.actor, theirs.purpose) == ("alice@example.com", "complaint 4711")
        assert theirs.grants == (name,) and theirs.at_us >= before and theirs.signed
        assert mine.grants == () and mine.signed and mine.key != theirs.key
        assert [a.record for a in trail.accesses(actor="alice@example.com")] == [theirs.record]
        assert [a.record for a in trail.accesses(actor=reader.public.line())] == [theirs.record]
        assert trail.verify()


def test_accesses_are_found_by_run_source_person_and_reader(database: Path) -> None:
    record(database)
    grant(database, "privacy-officer")
    with provkeep.open(database, as_=ALICE) as trail:
        first, second = (run.id for run in trail.runs())
        both = [trail.output(first).id, trail.output(second).id]
        trail.values(both, purpose="bulk")
        for which in (
            {"trace": first},
            {"trace": second},
            {"person": "customer 4711"},
            {"person": "carol"},
            {"source": "handbook.pdf"},
            {"actor": "alice@example.com"},
        ):
            found = [a for a in trail.accesses(**which) if a.what == "payloads"]
            assert [a.purpose for a in found] == ["bulk"], which
            assert set(found[0].artifacts) == set(both)
        assert not trail.accesses(person="nobody") and not trail.accesses(actor="dave")


def test_accesses_are_found_by_what_was_opened(database: Path) -> None:
    """The words of the question stand nowhere else in a record, whatever a reader calls himself."""
    grant(database, "auditor")
    with provkeep.open(database, as_=ALICE) as trail, pytest.raises(RefusedError):
        trail.text(purpose='"what":"payload"')
    with provkeep.open(database, actor='"what":"reveal"') as trail:
        trail.text(purpose='look, "what":"refused"')
        node = trail.output()
        trail.values([node.id, *(d.id for d in trail.graph().of("artifact", "document"))])
        every = trail.accesses()
        assert {a.what for a in every} == {"payload", "payloads", "names", "refused"}
        for what in r.OPENED:
            assert trail.accesses(what=what) == [a for a in every if a.what == what]
        assert trail.accesses(what=r.OPENED) == every
        some = trail.accesses(what=["refused", "payload"])
        assert some == [a for a in every if a.what in ("refused", "payload")]
        assert trail.accesses(what=["refused", "payload"], limit=1) == some[:1]
        assert trail.accesses(what=[]) == []
        mine = trail.accesses(what="payload", actor='"what":"reveal"', trace=node.trace)
        assert [a.purpose for a in mine] == ['look, "what":"refused"']
        with pytest.raises(ValueError, match="refused; got opened"):
            trail.accesses(what="opened")


def test_an_export_is_one_access_that_lists_what_it_opened(database: Path, tmp_path: Path) -> None:
    grant(database, "reviewer")
    with provkeep.open(database, as_=ALICE) as trail:
        trail.export(tmp_path / "e.json", payloads=True, purpose="disclosure")
        opened = [a for a in trail.accesses(actor="alice@example.com") if a.what == "payloads"]
        assert len(opened) == 1 and len(opened[0].artifacts) > 2
        refused = [a for a in trail.accesses() if a.what == "refused"]
        assert [a.why for a in refused] == ["scope"]
        assert not set(refused[0].artifacts) & set(opened[0].artifacts)
    exported = (tmp_path / "e.json").read_text()
    assert ANSWER in exported and DOCUMENT not in exported and "$sealed" in exported


def test_what_a_prompt_quotes_from_outside_the_role_stays_sealed(database: Path) -> None:
    grant(database, "reviewer")
    with provkeep.open(database, as_=ALICE) as trail:
        ids = [n.id for n in trail.lineage().graph.of("artifact")]
        shown = json.dumps(trail.values(ids, purpose="review"))
    assert "Until when?" in shown and ANSWER in shown and DOCUMENT[:30] not in shown


# -- refused -----------------------------------------------------------------------------------


def test_opening_without_a_grant_is_refused_and_recorded(database: Path) -> None:
    grant(database, "reviewer")
    with pytest.raises(RefusedError, match="nothing was granted") as caught:
        provkeep.open(database, as_=BOB)
    assert caught.value.why == "no-grant" and not hasattr(caught.value, "__notes__")
    assert refusals(database) == [("no-grant", "bob@example.com")]


def test_opening_after_expiry_is_refused_and_recorded(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time_ns() // 1000
    grant(database, "reviewer", at_us=now - 2 * DAY_US, until_us=now - DAY_US)
    with pytest.raises(RefusedError, match="expired"):
        provkeep.open(database, as_=ALICE)
    assert refusals(database) == [("expired", "alice@example.com")]


def test_a_grant_that_expires_while_the_trail_is_open_ends_there(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    until = time.time_ns() // 1000 + DAY_US
    grant(database, "reviewer", until_us=until)
    with provkeep.open(database, as_=ALICE) as trail:
        assert trail.text(purpose="in time") == ANSWER
        with monkeypatch.context() as patch:
            patch.setattr(time, "time_ns", lambda: until * 1000)
            with pytest.raises(RefusedError, match="expired"):
                trail.text(purpose="too late")
    assert [why for why, _ in refusals(database)] == ["expired"]


def test_a_grant_that_has_not_begun_is_refused(database: Path) -> None:
    now = time.time_ns() // 1000
    grant(database, "reviewer", at_us=now + DAY_US, until_us=now + 2 * DAY_US)
    with pytest.raises(RefusedError, match="not in force yet"):
        provkeep.open(database, as_=ALICE)


def test_opening_after_a_revocation_is_refused_and_recorded(database: Path) -> None:
    name = grant(database, "reviewer")
    trail = provkeep.open(database, as_=ALICE)
    assert trail.text(purpose="before") == ANSWER
    with Office(database, actor="the admin") as office:
        office.revoke(name[:8], reason="left the team")
        with pytest.raises(GrantError, match="revoked before"):
            office.revoke(name, reason="again")
        for unknown in ("", "nothing"):
            with pytest.raises(UnknownIdError):
                office.revoke(unknown, reason="x")
    with trail, pytest.raises(RefusedError, match="revoked"):
        trail.text(purpose="after")
    with pytest.raises(RefusedError, match="revoked"):
        provkeep.open(database, as_=ALICE)
    assert [why for why, _ in refusals(database)] == ["revoked", "revoked"]
    with closing(sqlite3.connect(f"{database}-keys")) as db:
        assert db.execute("SELECT count(*) FROM meta WHERE key LIKE 'grant/%'").fetchone() == (0,)
    with provkeep.open(database) as trail:
        (listed,) = trail.grants()
        assert (listed.status(), listed.name) == ("revoked", "alice@example.com")


def test_reading_without_the_keys_is_refused_and_recorded(database: Path, home: Path) -> None:
    (keys,) = home.glob("stores/*/reader.json")
    text = keys.read_text()
    keys.unlink()
    with provkeep.open(database, actor="eve") as trail, pytest.raises(KeyFileError):
        trail.text(purpose="curiosity")
    keys.write_text(text)
    keys.chmod(0o600)
    assert refusals(database) == [("no-key", "eve")]


def test_a_refusal_stands_where_it_cannot_be_recorded(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(access.Appender, "append", full)
    with pytest.raises(RefusedError) as caught:
        provkeep.open(database, as_=BOB)
    assert "not recorded" in caught.value.__notes__[0]


def test_nothing_is_returned_when_the_access_cannot_be_recorded(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant(database, "privacy-officer")
    with provkeep.open(database, as_=ALICE) as trail:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(access.Appender, "append", full)
        with pytest.raises(AccessNotRecordedError, match="nothing was opened"):
            trail.text(purpose="check")
        assert trail.runs()[0].actor != "carol", "names are not shown either"


# -- attacks -----------------------------------------------------------------------------------


def rewrite(database: Path, change: Callable[[dict[str, Any]], Any], kind: str = "grant") -> None:
    with closing(sqlite3.connect(database)) as db, db:
        for seq, body in db.execute("SELECT seq, body FROM record").fetchall():
            fields = json.loads(body)
            if fields["k"] == kind:
                change(fields)
                spelled = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
                db.execute("UPDATE record SET body=? WHERE seq=?", (spelled, seq))


RELABELS: list[Callable[[dict[str, Any]], Any]] = [
    lambda body: body.update(until=body["until"] + DAY_US),
    lambda body: body.update(at=body["at"] - DAY_US),
    lambda body: body.update(role="privacy-officer"),
    lambda body: body.update(c=[0, 1, 2, 3, 4]),
    lambda body: body.update(c=[0]),
    lambda body: body.update(key="A" * 43),
    lambda body: body.update(sealed="A" * 43),
    lambda body: body.pop("sig"),
    lambda body: body.update(sig="A" * 86),
    lambda body: body.update(extra=1),
    lambda body: body.update(until="never"),
]


@pytest.mark.parametrize("lie", RELABELS)
def test_a_grant_that_was_altered_or_relabelled_is_refused(
    database: Path, lie: Callable[[dict[str, Any]], Any]
) -> None:
    grant(database, "reviewer")
    rewrite(database, lie)
    with pytest.raises(GrantError, match="ask for a new one"):
        provkeep.open(database, as_=ALICE)
    with provkeep.open(database) as trail:
        assert not trail.verify()


def test_terms_that_an_admin_did_not_seal_do_not_open_even_if_signed(database: Path) -> None:
    """Were the admin's signing key stolen, old sealed keys still serve their own terms only."""
    from provkeep.reading.grants import Admission
    from provkeep.sealing.grants import GRANT_PURPOSE, sign_body
    from provkeep.sealing.home import load_admin_seed
    from provkeep.store.sqlite import SqliteStore

    grant(database, "reviewer")
    store = SqliteStore(database, read_only=True)
    seed = load_admin_seed(store.store_id)

    def resign(body: dict[str, Any]) -> None:
        body["until"] += DAY_US
        body["sig"] = sign_body(body, store.store_id, seed, GRANT_PURPOSE)

    rewrite(database, resign)
    with pytest.raises(GrantError, match="other terms"):
        Admission(database, store, ALICE).enter()
    store.close()


def test_a_grant_copied_to_another_reader_is_refused(database: Path) -> None:
    """Bob writes his id into the index and the record that let Alice in."""
    grant(database, "reviewer")
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("UPDATE grants SET reader=?", (BOB.public.id,))
    with pytest.raises(GrantError, match="somebody else"):
        provkeep.open(database, as_=BOB)
    b64u = b64encode(BOB.public.id).decode().replace("+", "-").replace("/", "_")
    rewrite(database, lambda body: body.update(to=b64u))
    with pytest.raises(GrantError, match="not signed"):
        provkeep.open(database, as_=BOB)


def test_a_grant_copied_from_another_store_is_refused(database: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    record(other)
    grant(database, "auditor")
    grant(other, "privacy-officer")
    rows = {}
    for path in (database, other):
        with closing(sqlite3.connect(path)) as db, closing(sqlite3.connect(f"{path}-keys")) as ks:
            sql = 'SELECT body FROM record WHERE CAST(body AS TEXT) LIKE \'%"k":"grant"%\''
            (body,) = db.execute(sql).fetchone()
            (sealed,) = ks.execute("SELECT value FROM meta WHERE key LIKE 'grant/%'").fetchone()
            rows[path] = body, sealed
    body, sealed = rows[other]
    grant_id = json.loads(body)["id"]
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("UPDATE record SET body=? WHERE body=?", (body, rows[database][0]))
    with closing(sqlite3.connect(f"{database}-keys")) as db, db:
        db.execute("UPDATE meta SET key=?, value=?", (f"grant/{grant_id}", sealed))
    with pytest.raises(GrantError, match="not signed by this store's admin"):
        provkeep.open(database, as_=ALICE)


def test_sealed_keys_of_another_grant_are_refused(database: Path) -> None:
    """An auditor puts the sealed keys of a wider grant in the place of its own."""
    grant(database, "auditor", BOB)
    grant(database, "privacy-officer", ALICE)
    with closing(sqlite3.connect(f"{database}-keys")) as db, db:
        rows = db.execute("SELECT key, value FROM meta WHERE key LIKE 'grant/%'").fetchall()
        (one, first), (two, second) = rows
        db.executemany("UPDATE meta SET value=? WHERE key=?", [(second, one), (first, two)])
    for reader in (ALICE, BOB):
        with pytest.raises(GrantError, match="not those that the log committed to"):
            provkeep.open(database, as_=reader)
    with closing(sqlite3.connect(f"{database}-keys")) as db, db:
        db.execute("DELETE FROM meta")
    with pytest.raises(GrantError, match="not in the key file"):
        provkeep.open(database, as_=ALICE)


def test_an_admin_that_the_recorder_does_not_pin_grants_nothing(
    database: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mallory.json"
    seed = b64encode(new_seed()).decode()
    path.write_text(json.dumps({"format": 1, "kind": "admin", "seed": seed}))
    path.chmod(0o600)
    with pytest.raises(RecipientsError, match="not that of this store's admin"):
        Office(database, actor="mallory", admin=path)


def test_keys_of_another_store_are_not_granted(database: Path, tmp_path: Path, home: Path) -> None:
    from provkeep.sealing.ceremony import make_recipients

    make_recipients(tmp_path / "other")
    with (
        Office(database, actor="a", keys=tmp_path / "other" / "reader.json") as office,
        pytest.raises(SealingError, match="does not open what this store seals"),
    ):
        office.grant("reviewer", ALICE.public, purpose="x", until_us=FAR)
    (path,) = home.glob("stores/*/reader.json")
    fields = json.loads(path.read_text())
    del fields["private"]["prompt"]
    path.write_text(json.dumps(fields))
    with Office(database, actor="a") as office, pytest.raises(SealingError, match="prompt"):
        office.grant("reviewer", ALICE.public, purpose="x", until_us=FAR)


# -- roles and names ---------------------------------------------------------------------------


def test_roles_of_ones_own_stand_in_a_file(database: Path) -> None:
    home_dir().joinpath("roles.json").write_text('{"support": ["output"], "auditor": ["tool"]}')
    assert roles()["support"] == ("output",)
    assert roles()["auditor"] == (), "a built-in role means one thing everywhere"
    grant(database, "support")
    with provkeep.open(database, as_=ALICE) as trail:
        assert trail.text(purpose="x") == ANSWER
    home_dir().joinpath("roles.json").write_text('{"odd": ["diary"]}')
    with pytest.raises(SealingError, match="diary"):
        grant(database, "odd")
    with pytest.raises(SealingError, match="there is no role"):
        grant(database, "king")
    with pytest.raises(SealingError, match="future"):
        grant(database, "auditor", until_us=1)
    home_dir().joinpath("roles.json").write_text("[]")
    with pytest.raises(KeyFileError, match="malformed"):
        roles()


def test_the_widest_of_several_grants_counts_for_each_compartment(database: Path) -> None:
    names = [grant(database, "reviewer"), grant(database, "auditor")]
    with provkeep.open(database, as_=ALICE) as trail:
        assert trail.text(purpose="x") == ANSWER
        trail.close()
    with provkeep.open(database) as trail:
        (found,) = (a for a in trail.accesses() if a.what == "payload")
        assert set(found.grants) == set(names)


def test_a_public_line_comes_back_and_a_changed_one_does_not() -> None:
    for name in ("alice@example.com", "a+b@example.com", "Ünal, Büro 3"):
        for suite in ("x25519", HYBRID):
            public = new_principal(name, suite).public
            assert PublicPrincipal.from_line(public.line() + "\n") == public
    line = ALICE.public.line()
    for lie in ("", "alice", line[:-4], line.replace(ALICE.public.id.hex(), "0" * 24), line * 2):
        with pytest.raises(SealingError, match="provkeep keys new"):
            PublicPrincipal.from_line(lie)
    for name in ("", "x" * 257, "two\nlines"):
        with pytest.raises(ValueError, match="printable"):
            new_principal(name)


def test_private_keys_of_a_reader_show_nowhere_and_are_never_replaced(tmp_path: Path) -> None:
    assert repr(ALICE.seed)[2:-1] not in repr(ALICE)
    path = tmp_path / "alice.key"
    write_principal(ALICE, path)
    with pytest.raises(KeyFileError, match="already"):
        write_principal(BOB, path)
    text = path.read_text()
    for lie in (
        text.replace("alice", "bob", 1),
        text.replace('"kind": "principal"', '"kind": "admin"'),
        text.replace(b64encode(ALICE.seed).decode(), b64encode(BOB.seed).decode()),
    ):
        assert lie != text
        path.write_text(lie)
        with pytest.raises(KeyFileError, match="malformed") as caught:
            provkeep.open(tmp_path / "none.db", as_=path)
        assert b64encode(ALICE.box_key).decode() not in str(caught.value)


def test_an_access_moved_into_another_store_is_not_signed(database: Path, tmp_path: Path) -> None:
    from provkeep.sealing.grants import ACCESS_PURPOSE, is_signed_body
    from provkeep.store.sqlite import SqliteStore

    with provkeep.open(database) as trail:
        trail.text(purpose="x")
    store = SqliteStore(database, read_only=True)
    bodies = [json.loads(body) for _, body in store.records()]
    body = next(b for b in bodies if b["k"] == "access")
    public = unb64(body["key"])
    assert is_signed_body(body, store.store_id, public, ACCESS_PURPOSE)
    assert not is_signed_body(body, secrets.token_bytes(16), public, ACCESS_PURPOSE)
    for lie in ({"what": "nothing"}, {"at": body["at"] + 1}, {"sig": "x"}, {"sig": None}):
        assert not is_signed_body({**body, **lie}, store.store_id, public, ACCESS_PURPOSE)
    store.close()


def test_a_grant_from_before_a_rotation_opens_nothing_and_a_new_one_does(database: Path) -> None:
    grant(database, "privacy-officer")
    with provkeep.open(database, as_=ALICE) as trail:
        before = trail.text(purpose="a test")
    rotate_compartments(database, COMPARTMENTS)
    with (
        provkeep.open(database, as_=ALICE) as trail,
        pytest.raises(UnsealError, match="ask for a new grant"),
    ):
        trail.text(purpose="a test")
    grant(database, "privacy-officer")
    with provkeep.open(database, as_=ALICE) as trail:
        assert trail.text(purpose="a test") == before
