"""A small client of the Open Inference Protocol over HTTP, for one request at a time."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.parse
from dataclasses import dataclass
from typing import Any

from orchestrator.cli import endpoint
from orchestrator.errors import Kind, OrchError
from orchestrator.profiling import trust

HEADER_LENGTH = "Inference-Header-Content-Length"
ANSWER_MAX_BYTES = 2**31
REFUSED = {401: Kind.UNAUTHORIZED, 503: Kind.OVERLOADED}
CLOSED = {
    "http": "does it want https://? Or the worker was stopped: orch status tells",
    "https": "does it ask for a certificate (--cert FILE --key FILE)? Or the worker was stopped: orch status tells",
}
HINTS = {Kind.UNAUTHORIZED: "name the file that holds it: --token-file FILE"}


@dataclass(frozen=True, slots=True)
class Message:
    """A request or an answer: its JSON part, and the binary part after it."""

    header: dict[str, Any]
    binary: bytes = b""


class Client:
    """Talks to one endpoint."""

    def __init__(self, url: str, *, token: str | None, timeout_s: float, tls: ssl.SSLContext | None = None) -> None:
        self._url = _address(url)
        self._token = token
        self._timeout_s = timeout_s
        self._tls = tls

    def metadata(self, model: str) -> dict[str, Any]:
        """Return the model's metadata; raise OrchError with the server's words."""
        return self._exchange("GET", _path(model), None, {}, wanted="inputs").header

    def infer(self, model: str, request: Message) -> Message:
        """Return the answer to an inference request; raise OrchError with the server's words."""
        body, headers = encoded(request)
        return self._exchange("POST", _path(model) + "/infer", body, headers, wanted="outputs")

    def _exchange(self, method: str, path: str, body: bytes | None, headers: dict[str, str], *, wanted: str) -> Message:
        if self._token is not None:
            headers = headers | {"Authorization": f"Bearer {self._token}"}
        host, port = self._url.hostname or "", self._url.port
        connection: http.client.HTTPConnection
        if self._url.scheme == "https":
            connection = http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=self._tls)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        try:
            connection.request(method, self._url.path.rstrip("/") + path, body, headers)
            response = connection.getresponse()
            message = _message(response, response.read(ANSWER_MAX_BYTES))
        except TimeoutError:
            what = f"no answer within {self._timeout_s:g} s"
            raise OrchError(Kind.DEADLINE, what, where=self._url.geturl()) from None
        except http.client.BadStatusLine as error:
            if isinstance(error, http.client.RemoteDisconnected):
                what, hint = "the connection was closed without an answer", CLOSED[self._url.scheme]
            else:  # its bytes are not for terminals
                what, hint = "does not speak HTTP/1.1", "is it the gRPC port? The HTTP one is wanted"
            raise OrchError(Kind.UNAVAILABLE, what, where=self._url.geturl(), hint=hint) from None
        except ssl.SSLError as error:
            what, hint = trust.refusal(error)
            raise OrchError(Kind.UNAVAILABLE, what, where=self._url.geturl(), hint=hint) from None
        except (OSError, http.client.HTTPException) as error:
            what = f"cannot be reached: {getattr(error, 'strerror', None) or error or type(error).__name__}"
            raise OrchError(Kind.UNAVAILABLE, what, where=self._url.geturl()) from None
        finally:
            connection.close()
        if message is None or not isinstance(message.header.get(wanted), list):
            what = f"answers {method} {path}, but not as a server of models does"
            hint = "give the address of an Open Inference Protocol endpoint; orch status -o wide shows them"
            raise OrchError(Kind.FAILED, what, where=self._url.geturl(), hint=hint)
        return message


def client_of(target: endpoint.Target, timeout_s: float) -> Client:
    """Return a client of the target; raise OrchError where its token or certificates cannot be read."""
    tls = None if target.trust is None else trust.context(target.trust)
    return Client(target.url, token=endpoint.token(target.token_file), timeout_s=timeout_s, tls=tls)


def encoded(request: Message) -> tuple[bytes, dict[str, str]]:
    """Return the body of an inference request and the headers that tell how to read it."""
    header = json.dumps(request.header).encode()
    if not request.binary:
        return header, {"Content-Type": "application/json"}
    return header + request.binary, {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(header))}


def _address(url: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port, or of an IPv6 address
        valid = False
    if not valid:
        raise OrchError(Kind.INVALID, f"is not an HTTP address: {url!r}", hint="write http://127.0.0.1:8000")
    return parts


def _path(model: str) -> str:
    return f"/v2/models/{urllib.parse.quote(model, safe='')}"


def _message(response: http.client.HTTPResponse, body: bytes) -> Message | None:
    """Return the answer, None where it is none of this protocol; raise OrchError with a refusal's words."""
    try:
        length = int(response.headers.get(HEADER_LENGTH) or len(body))
        header = json.loads(body[:length] or b"{}")
    except ValueError:
        length, header = len(body), None
    if response.status != http.HTTPStatus.OK:
        raise _refusal(response, header, body)
    return Message(header, body[length:]) if isinstance(header, dict) else None


def _refusal(response: http.client.HTTPResponse, header: Any, body: bytes) -> OrchError:
    said = header.get("error") if isinstance(header, dict) else body[:300].decode("utf-8", "replace")
    later = response.headers.get("Retry-After")
    kind = REFUSED.get(response.status, Kind.FAILED)
    hint = f"try again in {later} s" if later else HINTS.get(kind)
    return OrchError(kind, f"the server answered {response.status}: {said or response.reason}", hint=hint)
