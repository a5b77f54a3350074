"""The body of an add-checkpoint request (C2SP tlog-witness).

old {size}
{hash of the consistency proof, base64}        0 to 63 lines
(empty line)
{checkpoint, a signed note}
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from strongroom.tlog.errors import CheckpointInvalidError
from strongroom.tlog.merkle import HASH_BYTES
from strongroom.tlog.note import decode_b64, split_note

__all__ = ["MAX_BODY_BYTES", "AddCheckpoint", "RequestMalformedError", "parse_request"]

MAX_BODY_BYTES: Final = 2**16 + 2**13  # a note, and a proof of 63 lines of 45 bytes
MAX_PROOF_LINES: Final = 63
_MAX_SIZE: Final = 2**63 - 1
_OLD: Final = re.compile(r"old (0|[1-9][0-9]{0,18})", re.ASCII)


class RequestMalformedError(Exception):
    """The request breaks the protocol's form."""


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A request; nothing of it is verified but its form."""

    old: int
    proof: tuple[bytes, ...]
    body: str
    """The text of the checkpoint, which its signatures are over."""
    signatures: tuple[tuple[str, bytes], ...]
    """Name, and key id || signature."""

    @property
    def origin(self) -> str:
        """The first line of the checkpoint."""
        return self.body.partition("\n")[0]


def parse_request(data: bytes) -> AddCheckpoint:
    """Parse the body of a request.

    Raises:
        RequestMalformedError: It is malformed, or too long.
    """
    if len(data) > MAX_BODY_BYTES:
        raise RequestMalformedError(f"longer than {MAX_BODY_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        raise RequestMalformedError("not UTF-8") from exc
    head, separator, note = text.partition("\n\n")
    first, *lines = head.split("\n")
    match = _OLD.fullmatch(first)
    if not separator or match is None or int(match[1]) > _MAX_SIZE:
        raise RequestMalformedError("expected: old SIZE, a proof, an empty line, a checkpoint")
    if len(lines) > MAX_PROOF_LINES:
        raise RequestMalformedError(f"a proof has at most {MAX_PROOF_LINES} hashes")
    try:
        proof = tuple(decode_b64(line, "a hash of the proof") for line in lines)
        body, signatures = split_note(note)
    except CheckpointInvalidError as exc:
        raise RequestMalformedError(exc.what) from exc
    if any(len(item) != HASH_BYTES for item in proof):
        raise RequestMalformedError(f"a hash of the proof has not {HASH_BYTES} bytes")
    return AddCheckpoint(int(match[1]), proof, body, tuple(signatures))
