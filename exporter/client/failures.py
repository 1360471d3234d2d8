"""Explain why a request failed, and what to do about it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
from collections.abc import Mapping
from http.client import HTTPException
from typing import NamedTuple

_PROBE_SECONDS = 1.0
_PLAIN_ANSWERS = ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
"""OpenSSL's reasons for a response that is not TLS."""
_CERTIFICATE_EXPIRED, _CERTIFICATE_NOT_YET_VALID = 10, 9
_NAME_MISMATCHES = (62, 64)
"""OpenSSL's codes for a certificate of another host name, and of another address."""


class Failure(NamedTuple):
    """Why events were not sent.

    Attributes
    ----------
    cause
        The same for all failures of one kind.
    detail
        What happened and what to do.
    """

    cause: str
    detail: str


class Server(NamedTuple):
    """A server that requests are sent to, as its URL says; ``socket`` is the path of its socket in the file system."""

    scheme: str
    host: str
    port: int
    socket: str | None = None

    def with_scheme(self, scheme: str) -> str:
        """Return the URL with another scheme."""
        return f"{scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def speaks_tls(self) -> bool:
        """Whether it completes a TLS handshake on its port, with any certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            contextlib.suppress(OSError),
            socket.create_connection((self.host, self.port), _PROBE_SECONDS) as connection,
            context.wrap_socket(connection),
        ):
            return True
        return False


def tls_context(ca_file: str | os.PathLike[str] | None, option: str = "ca_file") -> ssl.SSLContext:
    """Return a context that trusts the certificates in a file, or those of the system.

    Raises
    ------
    ValueError
        When the file cannot be read.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:  # an OSError, too
        raise ValueError(f"{option}: {ca_file}: expected certificates in PEM") from None
    except OSError as error:
        raise ValueError(f"{option}: {ca_file}: cannot be read: {error.strerror or error}") from None


def explain_error(error: Exception, server: Server, timeout: float) -> Failure:
    """Explain why there was no response; see `expects_tls`."""
    if isinstance(error, ssl.SSLError):
        return explain_tls_error(error, server)
    if failure := expects_tls(error, server):
        return failure
    if isinstance(error, OSError) and error.errno is not None:
        return _explain_network_error(error, server)
    if isinstance(error, TimeoutError):
        detail = f"timed out after {timeout:g} s: is it the right host and port, does a firewall block it?"
        return Failure("timeout", detail)
    if isinstance(error, OSError | HTTPException):
        return Failure("closed", f"no HTTP response ({error!r}): is it an exporter?")
    return Failure("error", str(error) if isinstance(error, ValueError) else repr(error))


def expects_tls(error: BaseException, server: Server) -> Failure | None:
    """Ask a server that hung up on plain HTTP whether it expects TLS; return that as the failure if it does."""
    closed = isinstance(error, ConnectionError | HTTPException) and not isinstance(error, ConnectionRefusedError)
    return _use_https(server) if closed and server.scheme == "http" and server.speaks_tls() else None


def _explain_network_error(error: OSError, server: Server) -> Failure:
    if isinstance(error, socket.gaierror):
        detail = f"unknown host {server.host!r}: {error.strerror}"
    elif server.socket is not None:
        detail = f"{error.strerror}: does the exporter listen there (--web.unix-socket), and may this user open it?"
    elif isinstance(error, ConnectionRefusedError):
        detail = f"connection refused: is the exporter running, and is {server.port} its port?"
    else:
        detail = f"{error.strerror}: is it the right host and port?"
    return Failure(f"{type(error).__name__} {error.errno}", detail)


def explain_tls_error(error: ssl.SSLError, server: Server, ca_option: str = "ca_file") -> Failure:
    """Explain why no TLS connection could be made.

    Parameters
    ----------
    error
        The cause.
    server
        Where it was to be connected to.
    ca_option
        Name of the option with the certificates to trust.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _NAME_MISMATCHES:
            advice = "use a host in the URL that the certificate names"
        elif error.verify_code in {_CERTIFICATE_EXPIRED, _CERTIFICATE_NOT_YET_VALID}:
            advice = "renew the certificate, or correct the clock of this machine"
        else:
            advice = f"if a private authority issued it, set {ca_option} to the authority's certificate"
        message = error.verify_message.rstrip(".")
        return Failure("certificate", f"the certificate is not trusted ({message}): {advice}")
    reason = error.reason or str(error)
    if reason in _PLAIN_ANSWERS:
        return Failure("plain", f"the port does not speak TLS: use {server.with_scheme('http')}")
    text = reason.replace("_", " ").lower()
    return Failure("tls", f"the TLS handshake failed ({text}): is it an https port?")


def explain_response(
    status: int, headers: Mapping[str, str], body: bytes, server: Server, has_credentials: bool
) -> Failure:
    """Explain a response that is not the one for success."""
    detail, advice = error_detail(status, body), ""
    if status == 400 and server.scheme == "http" and b"HTTPS" in body:  # nginx, and servers in Go
        return _use_https(server)
    if status == 401 and has_credentials:
        advice = "the token, or the user and password, are not those of a user of the exporter"
    elif status == 401:
        advice = "set token_file or MODEL_EXPORTER_TOKEN, or a user and password in the URL"
    elif status == 413:
        advice = "record smaller inputs, or raise the limit of the proxy in front of the exporter"
    elif 300 <= status < 400:
        advice = f"use the URL that it redirects to, {headers.get('Location', '')[:200]!r}"
    elif status in {404, 405, 501} or 200 <= status < 300:
        advice = "is the URL an exporter's, with the right port and path?"
    return Failure(str(status), f"{detail}: {advice}" if advice else detail)


def _use_https(server: Server) -> Failure:
    return Failure("tls expected", f"the port expects TLS: use {server.with_scheme('https')}")


def error_detail(status: int, response: bytes) -> str:
    """Return the text of a problem document (RFC 9457), else the beginning of the response."""
    try:
        problem = json.loads(response)
        summary = f"{status} {problem.get('detail') or problem['error']}"
        errors = problem.get("errors", [])[:5]
        details = [f"{error['pointer']}: {error['detail']}".removeprefix(": ") for error in errors]
        return "; ".join([summary, *(detail for detail in details if detail not in summary)])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return f"{status} {response[:300].decode(errors='replace').strip()}".rstrip()


def rejection_detail(response: bytes) -> str:
    """Return why the first of the events that the exporter rejected was rejected."""
    try:
        first = json.loads(response)["rejected"][0]
        return f"rejected by the exporter: {first['pointer']}: {first['detail']}"
    except (ValueError, TypeError, LookupError, RecursionError):
        return f"rejected by the exporter: {response[:200].decode(errors='replace')}"
