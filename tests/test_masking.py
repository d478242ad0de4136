"""Maskers find what has a form, leave what only looks like it, and do so alike every time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provkeep.masking import PERSONAL, SECRETS, Masker, Masks, is_card, is_iban

PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEAx\nq83+/v==\n-----END RSA PRIVATE KEY-----"
FOUND = [
    (PERSONAL, "write to alice.b+c@mail.example.co.uk now", "write to [email] now", "email"),
    (PERSONAL, "IBAN DE89 3704 0044 0532 0130 00, thanks", "IBAN [iban], thanks", "iban"),
    (PERSONAL, "to GB82WEST12345698765432.", "to [iban].", "iban"),
    (PERSONAL, "card 4111 1111 1111 1111 expires", "card [card] expires", "card"),
    (PERSONAL, "card 5500-0055-5555-5559", "card [card]", "card"),
    (PERSONAL, "from 192.168.10.254: refused", "from [ip]: refused", "ip"),
    (PERSONAL, "from 2001:db8::8a2e:370:7334 on", "from [ip] on", "ip"),
    (PERSONAL, "call +49 30 1234567 or", "call [phone] or", "phone"),
    (PERSONAL, "call (030) 901820 or", "call [phone] or", "phone"),
    (PERSONAL, "call +1-212-555-0142.", "call [phone].", "phone"),
    (SECRETS, f"key:\n{PEM}\nend", "key:\n[private key]\nend", "private key"),
    (SECRETS, "use sk-proj-abcdefghijklmnopqrstuv please", "use [token] please", "token"),
    (SECRETS, "ghp_" + "a1B2" * 9, "[token]", "token"),
    (SECRETS, "id AKIAIOSFODNN7EXAMPLE here", "id [token] here", "token"),
    (SECRETS, "Auth: Bearer abcdef0123456789abcdef==", "Auth: Bearer [token]", "token"),
    (SECRETS, "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF2QT4", "[token]", "token"),
    (SECRETS, "pg://app:s3cr3t@db.example", "pg://[credentials]@db.example", "credentials"),
    (SECRETS, 'password = "hunter2222"', 'password = "[secret]"', "secret"),
    (SECRETS, '{"api_key": "0123456789abcdef"}', '{"api_key": "[secret]"}', "secret"),
]  # fmt: skip
LEFT = [
    "order 4111 1111 1111 1112 of 2024-05-17, at 12:30:45",
    "GB82 WEST 1234 5698 7654 33 is no account",
    "version 1.2.3.4.5 and 999.1.1.1",
    "run 01a20ae0-fd0d-76af-a83e-d48f7d5314b7 took 1234567 ns",
    "see https://example.com/a:b@c and ratio 3:4",
    "a task-list, a password policy, the secret of it",
    "0000 0000 0000 0000",
    "meet at 10:30 on 17.05.2024, room 0815",
]


@pytest.mark.parametrize(("masker", "text", "masked", "kind"), FOUND, ids=lambda v: str(v)[:24])
def test_what_has_the_form_is_replaced_and_counted(masker, text, masked, kind):
    assert masker.mask(text) == (masked, {kind: 1})
    assert masker(text) == masked
    assert masker.mask(masked)[0] == masked, "what is masked is not masked again"


@pytest.mark.parametrize("text", LEFT)
def test_what_only_looks_like_it_is_left(text):
    assert (SECRETS + PERSONAL).mask(text) == (text, {})


def test_check_digits_are_those_of_the_standards():
    assert is_iban("GB82 WEST 1234 5698 7654 32") and not is_iban("GB82 WEST 1234 5698 7654 33")
    assert is_card("4242424242424242") and not is_card("4242424242424241") and not is_card("42")


@given(st.text(max_size=300))
def test_any_text_is_taken_and_masked_alike(text):
    both = SECRETS + PERSONAL
    masked, counts = both.mask(text)
    assert both.mask(text) == (masked, counts)
    assert bool(counts) or masked == text


@given(st.text(alphabet="ab @.:-+/0123456789", min_size=1, max_size=300))
def test_texts_that_nearly_fit_are_taken(text):
    (SECRETS + PERSONAL).mask(text)


NEARLY = ["a@", "0 ", "+1", "1 ", "a.", "f:", "-----BEGIN PRIVATE KEY-----", "A1", "x://a:", "eyJ."]


@pytest.mark.parametrize("unit", NEARLY)
def test_a_long_text_that_nearly_fits_does_not_stop_the_writer(unit):
    """A pattern that backtracks over the whole text would take hours for this one."""
    (SECRETS + PERSONAL).mask(unit * (200_000 // len(unit)))


def test_functions_of_ones_own_work_and_their_failures_store_nothing():
    def names(text: str) -> str:
        return text.replace("Anna", "[name]")

    masks = Masks([PERSONAL, names])
    assert masks.mask("Anna is a@b.example") == ("[name] is [email]", {"email": 1, "custom": 1})
    for bad in (lambda text: 1 / 0, lambda text: None):
        assert Masks(bad).mask("Anna") == ("[failed]", {"failed": 1})
    for nothing in ("email", [1]):
        with pytest.raises(TypeError, match=r"provkeep\.masking"):
            Masks(nothing)
    assert "email" in repr(PERSONAL) and isinstance(SECRETS + PERSONAL, Masker)
