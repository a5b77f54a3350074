"""Asks one witness for its cosignature (C2SP tlog-witness, add-checkpoint).

    POST {url}/add-checkpoint       old {size the witness knows}
                                    {consistency proof, a hash a line, base64}
                                    (empty line)
                                    {checkpoint}
    200   signature lines           409   the size that the witness knows, a line

The witness may be anybody's: its answers are bounded, and believed only as far as its
signature goes. Plain HTTP is enough for the protocol, since both sides sign; TLS keeps
others from cutting in to make it fail.
"""

from __future__ import annotations

import base64
import contextlib
import enum
import http.client
import re
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strongroom.tlog.checkpoint import Checkpoint
from strongroom.tlog.cosignature import Cosignature, open_cosignature
from strongroom.tlog.errors import CheckpointInvalidError
from strongroom.tlog.note import CosignerKey, split_lines, split_note

__all__ = ["Answer", "Outcome", "WitnessClient", "WitnessEndpoint", "add_checkpoint_body"]

REQUEST_SECONDS: Final = 5.0
MAX_ANSWER_BYTES: Final = 2**16
SIZE_CONTENT_TYPE: Final = "text/x.tlog.size"
_SIZE: Final = re.compile(rb"(0|[1-9][0-9]{0,18})\n", re.ASCII)


class Outcome(enum.StrEnum):
    """How a request to a witness ended."""

    COSIGNED = "cosigned"
    CONFLICT = "conflict"  # it knows another size than it was told; asked again with that
    AHEAD = "ahead"  # it has seen a larger tree than this log has
    REFUSED = "refused"  # 403, 404, 422 and the like
    INVALID = "invalid"  # its answer breaks the protocol, or its signature does not verify
    UNREACHABLE = "unreachable"  # no connection, no answer in time, 5xx


@dataclass(frozen=True, slots=True)
class WitnessEndpoint:
    """Where a witness is, and who it is."""

    name: str
    url: str
    key: CosignerKey
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request."""

    outcome: Outcome
    detail: str = ""
    cosignature: Cosignature | None = None
    size: int | None = None
    """The size that the witness knows, when it said so."""


def add_checkpoint_body(old: int, proof: Sequence[bytes], checkpoint: str) -> bytes:
    """Return the body of a request."""
    lines = [f"old {old}", *(base64.b64encode(item).decode() for item in proof)]
    return ("\n".join(lines) + f"\n\n{checkpoint}").encode()


class WitnessClient:
    """A kept connection to one witness. Thread safety: complete; one request at a time."""

    def __init__(self, endpoint: WitnessEndpoint):
        """Connect nowhere yet.

        Raises:
            ValueError: The URL is not http or https with a host.
            OSError: The CA file cannot be read, or holds no certificates.
        """
        parts = urllib.parse.urlsplit(endpoint.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query:
            raise ValueError(f"{endpoint.url}: expected http(s)://host[:port][/prefix]")
        self.endpoint = endpoint
        self._lock = threading.Lock()
        self._path = parts.path.rstrip("/") + "/add-checkpoint"
        self._connection: http.client.HTTPConnection
        if parts.scheme == "http":
            self._connection = http.client.HTTPConnection(
                parts.hostname, parts.port, timeout=REQUEST_SECONDS
            )
        else:
            context = ssl.create_default_context(
                cafile=None if endpoint.ca_file is None else str(endpoint.ca_file)
            )
            self._connection = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=REQUEST_SECONDS, context=context
            )

    def ask(self, old: int, proof: Sequence[bytes], checkpoint: Checkpoint) -> Answer:
        """Ask for the cosignature of `checkpoint`; never raises for what the witness does.

        Args:
            old: The size that the witness is believed to know.
            proof: Consistency of that size with the checkpoint's; empty when they are
                equal or `old` is 0.
            checkpoint: What the log signed.
        """
        with self._lock:
            return self._ask(add_checkpoint_body(old, proof, checkpoint.text), checkpoint)

    def _ask(self, body: bytes, checkpoint: Checkpoint) -> Answer:
        had_connection = self._connection.sock is not None
        try:
            try:
                status, content_type, text = self._post(body)
            except (http.client.HTTPException, OSError):
                if not had_connection:
                    raise
                # The witness may have closed the kept connection meanwhile.
                self._connection.close()
                status, content_type, text = self._post(body)
        except (http.client.HTTPException, OSError) as exc:
            self._connection.close()
            return Answer(Outcome.UNREACHABLE, f"{type(exc).__name__}: {exc}")
        return self._judge(status, content_type, text, checkpoint)

    def close(self) -> None:
        """Break off what is under way, and close the connection."""
        connected = self._connection.sock
        if connected is not None:
            with contextlib.suppress(OSError):  # it is broken already
                connected.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._connection.close()

    def _post(self, body: bytes) -> tuple[int, str, bytes]:
        self._connection.request(
            "POST", self._path, body, {"Content-Type": "text/plain; charset=utf-8"}
        )
        response = self._connection.getresponse()
        text = response.read(MAX_ANSWER_BYTES + 1)
        if len(text) > MAX_ANSWER_BYTES:
            self._connection.close()  # the rest of it would be taken for the next answer
            raise http.client.HTTPException("the answer is too long")
        return response.status, response.headers.get("Content-Type", ""), text

    def _judge(self, status: int, content_type: str, text: bytes, checkpoint: Checkpoint) -> Answer:
        if status == http.HTTPStatus.OK:
            return self._judge_cosignature(text, checkpoint)
        if status == http.HTTPStatus.CONFLICT:
            match = _SIZE.fullmatch(text)
            if match is None or content_type.partition(";")[0] != SIZE_CONTENT_TYPE:
                return Answer(Outcome.INVALID, "a conflict without a size")
            size = int(match[1])
            if size > checkpoint.size:
                return Answer(
                    Outcome.AHEAD,
                    f"it has seen {size} leaves, this log has {checkpoint.size}: log and state "
                    "are older than what was signed, or another process signs for this log",
                    size=size,
                )
            return Answer(Outcome.CONFLICT, f"it knows {size} leaves", size=size)
        said = text[:200].decode("ascii", "replace").strip()
        if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
            return Answer(Outcome.UNREACHABLE, f"{status} {said}")
        return Answer(Outcome.REFUSED, f"{status} {said}")

    def _judge_cosignature(self, text: bytes, checkpoint: Checkpoint) -> Answer:
        try:
            blobs = split_lines(text.decode())
            body, _ = split_note(checkpoint.text)
            cosignature = open_cosignature(self.endpoint.key, body, blobs)
        except (CheckpointInvalidError, UnicodeDecodeError) as exc:
            return Answer(Outcome.INVALID, str(exc))
        if cosignature is None:
            return Answer(Outcome.INVALID, f"no cosignature of {self.endpoint.key}")
        return Answer(Outcome.COSIGNED, cosignature=cosignature, size=checkpoint.size)
