"""The web configuration file: what is refused, who is let in, and a real server with it."""

from __future__ import annotations

import base64
import hashlib
import signal
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest
from support.certificates import certificate, openssl, serve_tls, signed_by
from support.servers import Served, eventually, write_config

from exporter.errors import ConfigError
from exporter.server import access
from exporter.server.access import Caller, WebConfig

PASSWORD = "pässword: with a colon"


def hashed(password: str, cost: int = 4) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()


def basic(user: str, password: str, scheme: str = "Basic") -> str:
    return f"{scheme} {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with keys and certificates, good ones and others."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("server", "other", "authority"):
        certificate(folder, name)
    certificate(folder, "client", *signed_by(folder, "authority"))
    locked = ["-aes128", "-passout", "pass:secret", "-out", folder / "locked.key"]
    openssl("ec", "-in", folder / "server.key", *locked)
    (folder / "text").write_text("neither key nor certificate\n")
    return folder


def load(folder: Path, text: str) -> WebConfig:
    path = folder / "web.yml"
    path.write_text(text)
    return access.load(path)


VERIFY = "client_auth_type: RequireAndVerifyClientCert"
GOOD = "cert_file: server.crt, key_file: server.key"
NO_HASH = "basic_auth_users.alice: expected a bcrypt hash such as htpasswd -nBC 10 alice prints"
BAD = [
    ("basic_auth_user: {}", 'basic_auth_user: is not known; did you mean "basic_auth_users"?'),
    ("[]\n# a list", "the document: expected a mapping"),
    ("basic_auth_users: [alice]", "basic_auth_users: expected a mapping"),
    ("basic_auth_users: {alice: hunter2}", NO_HASH),
    (f"basic_auth_users: {{bob: '{hashed('x')}', alice: 12345}}", NO_HASH),
    (f"basic_auth_users: {{alice: $2b$99${'a' * 21}.{'a' * 31}}}", NO_HASH),
    (f"basic_auth_users: {{alice: $2b$10${'a' * 53}}}", NO_HASH),  # ends in bits that no salt has
    (
        f"basic_auth_users: {{17: '{hashed('x')}'}}",
        'basic_auth_users.17: expected a string as the user\'s name; write it in quotes: "17"',
    ),
    (
        "http_server_config: {http2: true, headers: {X-Frame-Options: deny}}",
        "http_server_config.headers: is not supported here; the server sets its headers itself",
    ),
]
BAD_TLS = [
    ("cert: PEM, key: PEM", "cert: is not supported here; name a cert_file instead"),
    (f"{GOOD}, client_ca: PEM", "client_ca: is not supported here; name a client_ca_file instead"),
    (f"{GOOD}, min_versoin: TLS13", 'min_versoin: is not known; did you mean "min_version"?'),
    (f"{GOOD}, min_version: TLS10", 'min_version: expected TLS12 or TLS13, got "TLS10"'),
    (
        f"{GOOD}, client_auth_type: RequestClientCert",
        'client_auth_type: expected NoClientCert or RequireAndVerifyClientCert, got "RequestClientCert"',
    ),
    (f"{GOOD}, {VERIFY}", "client_ca_file: is required to verify clients"),
    (
        f"{GOOD}, client_ca_file: authority.crt",
        "client_auth_type: is required with client_ca_file: RequireAndVerifyClientCert",
    ),
    ("cert_file: server.crt", "key_file: is required"),
    (
        "cert_file: none.crt, key_file: server.key",
        "cert_file: FOLDER/none.crt: cannot be read: No such file or directory",
    ),
    ("cert_file: server.crt, key_file: .", "key_file: FOLDER: cannot be read: Is a directory"),
    ("cert_file: server.key, key_file: server.key", "cert_file: FOLDER/server.key: is not a certificate in PEM"),
    ("cert_file: server.crt, key_file: text", "key_file: FOLDER/text: is not a key in PEM without a password"),
    (
        "cert_file: server.crt, key_file: locked.key",
        "key_file: FOLDER/locked.key: is not a key in PEM without a password",
    ),
    ("cert_file: server.crt, key_file: other.key", "key_file: FOLDER/other.key: is not the key of cert_file"),
    (f"{GOOD}, {VERIFY}, client_ca_file: text", "client_ca_file: FOLDER/text: is not a certificate in PEM"),
]
BAD += [(f"tls_server_config: {{{text}}}", f"tls_server_config.{message}") for text, message in BAD_TLS]


@pytest.mark.parametrize(
    ("text", "message"), BAD, ids=[message.split(":")[0] + f"-{n}" for n, (_, message) in enumerate(BAD)]
)
def test_refused(folder: Path, text: str, message: str) -> None:
    """A mistake is refused with the file, the key, what is wrong and what would be right; no password is shown."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    assert str(caught.value) == f"{folder / 'web.yml'}: {message.replace('FOLDER', str(folder))}"


def test_what_weakens_nothing_is_ignored_with_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Other keys of exporter-toolkit's format do not stop the start."""
    text = f"http_server_config: {{http2: true}}\nrate_limit: {{burst: 1}}\ntls_server_config: {{{GOOD}, SUITES}}"
    web = load(folder, text.replace("SUITES", "max_version: TLS13, cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]"))
    assert all("GCM" in one["name"] or "CHACHA20" in one["name"] for one in web.context().get_ciphers())  # type: ignore[union-attr]
    ignored = ("tls_server_config.max_version", "tls_server_config.cipher_suites", "http_server_config", "rate_limit")
    found = [message.partition(" is ignored: ")[0] for message in caplog.messages]
    assert found == [f"{folder / 'web.yml'}: {key}" for key in ignored]


def test_paths_are_relative_to_the_file(folder: Path, tmp_path: Path) -> None:
    """Paths are relative to the folder that the file is named in, also where it is a link to elsewhere."""
    (tmp_path / "real.yml").write_text(f"tls_server_config: {{{GOOD}, min_version: TLS13}}")
    (folder / "link.yml").symlink_to(tmp_path / "real.yml")
    tls = access.load(folder / "link.yml").tls
    assert tls is not None
    assert (tls.cert_file, tls.key_file) == (str(folder / "server.crt"), str(folder / "server.key"))


@pytest.mark.parametrize("text", ["", "basic_auth_users:", "basic_auth_users: {}\ntls_server_config:"])
def test_without_a_configuration_everything_is_allowed(folder: Path, text: str) -> None:
    """Without users all requests are allowed; without certificates the server uses plain HTTP."""
    web = load(folder, text)
    assert not web.guarded
    assert web.context() is None


@pytest.fixture(scope="module")
def web(folder: Path) -> WebConfig:
    return load(folder, f"basic_auth_users: {{alice: {hashed(PASSWORD)}, bob: {hashed('b').replace('$2b$', '$2y$')}}}")


@pytest.mark.parametrize(
    ("header", "right"),
    [
        (basic("alice", PASSWORD), True),
        (basic("alice", PASSWORD, "bASIC"), True),
        (basic("bob", "b"), True),
        (basic("alice", "b"), False),
        (basic("alice", ""), False),
        (basic("Alice", PASSWORD), False),
        (basic("", PASSWORD), False),
        (basic("nobody", "."), False),
        (basic("bob", "b" + "\0"), False),
        (basic("alice", "x" * 100), False),
        (basic("alice", PASSWORD, "Bearer"), False),
        ("Basic " + base64.b64encode(b"alice").decode(), False),
        ("Basic " + base64.b64encode(b"\xff\xfe:\xff").decode(), False),
        (basic("alice", PASSWORD).replace(" ", " *"), False),
        ("Basic !!!", False),
        ("Basic é", False),
        ("Basic YWxpY2U", False),
        ("Basic", False),
        ("", False),
        (None, False),
    ],
)
def test_authenticated(web: WebConfig, header: str | None, right: bool) -> None:
    """A user with the right password is authenticated every time; other credentials are refused without an error."""
    found = [web.authenticated(header), web.authenticated(header)]
    assert [one is not None for one in found] == [right, right]
    assert {one.name for one in found if one} <= {"alice", "bob"}


def test_an_unknown_user_takes_as_long_as_a_known_one() -> None:
    """A password takes as long to check for every user, whatever the cost of its hash, and for unknown users."""
    web = WebConfig(users={"alice": hashed("a", 10), "bob": hashed("b", 5)})

    def seconds(user: str) -> float:
        began = time.thread_time()
        assert not web.authenticated(basic(user, "wrong"))
        return time.thread_time() - began

    for user in ("nobody", "bob"):
        assert min(seconds(user) for _ in range(3)) == pytest.approx(min(seconds("alice") for _ in range(3)), rel=0.5)
    assert not web.remembered(basic("alice", "a"))
    assert web.authenticated(basic("alice", "a"))
    assert web.remembered(basic("alice", "a"))
    assert not web.remembered(basic("alice", "a", "Bearer"))


def test_remembered_credentials_are_bounded() -> None:
    """The number of remembered credentials is limited."""
    users = {f"user-{number}": hashed("p") for number in range(150)}
    web = WebConfig(users=users)
    assert all(web.authenticated(basic(user, "p")) for user in users)
    assert sum(web.remembered(basic(user, "p")) is not None for user in users) == 100
    assert all(web.authenticated(basic(user, "p")) for user in users)


def test_a_reload_forgets_only_passwords_that_changed(tmp_path: Path) -> None:
    """A reload keeps the passwords that are still valid in memory, so that nobody waits for them to be hashed again."""
    path = tmp_path / "web.yml"
    alice, bob = hashed("a"), hashed("b")
    path.write_text(f"basic_auth_users: {{alice: {alice}, bob: {bob}, carol: {hashed('c')}}}")
    web = access.load(path)
    headers = [basic("alice", "a"), basic("bob", "b"), basic("carol", "c")]
    assert all(web.authenticated(header) for header in headers)
    path.write_text(f"basic_auth_users: {{alice: {alice}, bob: {hashed('new')}}}")
    web.reload(path)
    assert [web.remembered(header) is not None for header in headers] == [True, False, False]
    assert [web.authenticated(header) is not None for header in headers] == [True, False, False]


HASH = hashlib.sha256(b"secret").hexdigest()
NAMED = f"name: a, sha256: {HASH}"
TOKEN = f"{NAMED}, scopes: [read]"
NO_DIGEST = "[0].sha256: expected the SHA-256 of the token, 64 hexadecimal digits as model-exporter token prints them"
BAD_TOKENS = [
    ("tokens: []", "the document: expected a list"),
    ("[hunter2]", "[0]: expected a mapping"),
    (f"- {{sha256: {HASH}, scopes: [read]}}", "[0].name: is required"),
    (f"- {{name: '', sha256: {HASH}, scopes: [read]}}", "[0].name: expected at least 1 character"),
    (f"- {{{NAMED}}}", "[0].scopes: is required"),
    (f"- {{{NAMED}, scopes: []}}", "[0].scopes: expected at least 1 entry"),
    (f"- {{{NAMED}, scopes: read}}", "[0].scopes: expected a list"),
    (f"- {{{NAMED}, scopes: [read, injest]}}", '[0].scopes[1]: "injest" is not a valid scope; did you mean "ingest"?'),
    (
        f"- {{{NAMED}, scopes: [user]}}",
        '[0].scopes[0]: "user" is not a valid scope; valid values: feedback, ingest, notify, read, review',
    ),
    (f"- {{name: a, sha265: {HASH}, scopes: [read]}}", '[0].sha265: is not known; did you mean "sha256"?'),
    ("- {name: a, sha256: hunter2, scopes: [read]}", f"{NO_DIGEST}; got 7 characters"),
    ("- {name: a, sha256: 12345678, scopes: [read]}", NO_DIGEST),
    (
        f"- {{{TOKEN}}}\n- {{name: a, sha256: {'0' * 63}a, scopes: [read]}}",
        '[1].name: "a" is also the name of [0]; the history needs a name for each',
    ),
    (
        f"- {{name: alice, sha256: {HASH}, scopes: [read]}}",
        '[0].name: "alice" is also a user of the web configuration; the history needs a name for each',
    ),
    (
        f"- {{{TOKEN}}}\n- {{name: b, sha256: {HASH.upper()}, scopes: [read]}}",
        "[1].sha256: is the same as in [0]; each name needs its own token",
    ),
]


@pytest.mark.parametrize(("text", "message"), BAD_TOKENS, ids=[f"{n}" for n in range(len(BAD_TOKENS))])
def test_wrong_tokens_are_refused(tmp_path: Path, text: str, message: str) -> None:
    """A mistake in the tokens file is refused with the key and what is wrong; possible secrets are not shown."""
    path = tmp_path / "tokens.yml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        access.load_tokens(path, {"alice": ""})
    assert str(caught.value) == f"{path}: {message}"


def test_an_empty_tokens_file_refuses_all_requests(tmp_path: Path) -> None:
    """With a tokens file requests must be authenticated, even if the file has no tokens."""
    (tmp_path / "tokens.yml").write_text("# none yet\n")
    empty = access.load(None, tmp_path / "tokens.yml")
    assert empty.guarded
    assert empty.authenticated(None) is empty.authenticated("Bearer ") is empty.authenticated(basic("a", "b")) is None


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("Bearer secret", "scorer"),
        ("bearer  secret ", "scorer"),
        ("Bearer Secret", None),
        ("Bearer secret2", None),
        (f"Bearer {HASH}", None),
        ("Basic secret", None),
        ("secret", None),
        ("Bearer", None),
    ],
)
def test_a_token_is_looked_up_by_its_hash(header: str, name: str | None) -> None:
    """A token is authenticated as the name of its entry; its hash or another scheme is refused."""
    tokens_by_hash = {bytes.fromhex(HASH): Caller("scorer", frozenset({"ingest"}))}
    caller = WebConfig(users={"alice": hashed("a")}, tokens=tokens_by_hash).authenticated(header)
    assert (caller and caller.name) == name


@pytest.fixture
def secured(folder: Path, tmp_path: Path) -> Iterator[Served]:
    """An exporter with TLS that requires a client certificate and a user."""
    write_config(tmp_path)
    (folder / "secured.yml").write_text(
        f"tls_server_config: {{{GOOD}, client_auth_type: RequireAndVerifyClientCert, client_ca_file: authority.crt}}\n"
        f"basic_auth_users: {{alice: {hashed(PASSWORD)}}}\n"
    )
    server = Served(tmp_path, f"--web.config.file={folder / 'secured.yml'}")
    server.launch()
    yield server
    server.stop(signal.SIGTERM)


def test_mutual_tls_and_a_password_are_required(folder: Path, secured: Served) -> None:
    """The server accepts clients with a certificate of the authority and the password, and no others."""

    def status(name: str | None, header: str | None, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> int | None:
        """The status, None where there was no connection."""
        context = ssl.create_default_context(cafile=folder / "server.crt")
        context.maximum_version = newest
        if name:
            context.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
        headers = {"Authorization": header} if header else {}
        request = urllib.request.Request(f"https://127.0.0.1:{secured.port}/metrics", headers=headers)
        try:
            with urllib.request.urlopen(request, context=context, timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            assert error.headers["WWW-Authenticate"].startswith("Basic")
            return error.code
        except OSError:
            return None

    alice = basic("alice", PASSWORD)
    eventually(lambda: status("client", alice))
    assert status("client", alice) == 200
    assert status("client", alice, ssl.TLSVersion.TLSv1_2) == 200
    assert status("client", basic("alice", "wrong")) == 401
    assert status("client", None) == 401
    assert status("other", alice) is None
    assert status(None, alice) is None


def presented(port: int) -> bytes:
    """Return the certificate of a server."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 10) as plain, context.wrap_socket(plain) as connection:
        connection.sendall(b"GET /-/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        return connection.getpeercert(binary_form=True) or b""


def test_tls_ends_with_close_notify(tmp_path: Path) -> None:
    """A client can tell the end of a response without a length from a response that was cut."""
    write_config(tmp_path)
    certificate(tmp_path, "server")
    server = serve_tls(tmp_path, tmp_path)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    event = b'{"model": "credit"}'

    def said(sent: bytes) -> bytes:
        raw = socket.create_connection(("127.0.0.1", server.port), 10)
        with context.wrap_socket(raw, suppress_ragged_eofs=False) as client:
            client.sendall(sent)
            return b"".join(iter(lambda: client.recv(65536), b""))

    with server:
        assert said(b"GET /v1/dataset?model=credit HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        fields = b"Host: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(event)
        posted = b"POST /v1/predictions HTTP/1.1\r\n" + fields
        assert said(posted + event + posted).count(b"HTTP/1.1 202 ") == 1
        assert (
            said(posted.replace(b"\r\n", b"\r\nOrigin: http://y\r\n", 1)[:-4] + b"00000\r\n\r\n").count(b" 403 ") == 1
        )
        assert said(b"\x00").startswith(b"HTTP/1.1 400 ")
        with socket.create_connection(("127.0.0.1", server.port), 10) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert plain.recv(100) == b""
        assert "error" not in server.log.read_text()


def test_renewed_certificates_are_served_after_a_reload(tmp_path: Path) -> None:
    """SIGHUP replaces the certificate without refusing a request; with a key that does not match, the old one stays."""
    write_config(tmp_path)
    certificate(tmp_path, "server")
    with serve_tls(tmp_path, tmp_path) as server:
        seen = {presented(server.port)}
        for _ in range(2):
            certificate(tmp_path, "server")
            server.process.send_signal(signal.SIGHUP)
            seen.add(eventually(lambda: (shown := presented(server.port)) not in seen and shown))
        certificate(tmp_path, "other")
        (tmp_path / "other.key").rename(tmp_path / "server.key")
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: "is not the key of cert_file" in server.log.read_text())
        assert presented(server.port) in seen
        with socket.create_connection(("127.0.0.1", server.port)):  # one that never says anything holds up no stop
            start = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - start < 10
        assert "Traceback" not in server.log.read_text()
