"""What a witness cosigns, and what it answers (C2SP tlog-witness, add-checkpoint).

    malformed                                            400
    unknown origin                                       404
    no signature of the log's key, or a wrong one        403
    old size beyond the checkpoint's                     400
    old size is not the one that was cosigned last       409, with that size
    no consistency with it, or an impossible empty tree  422
    the store fails                                      500, and nothing is said
    else                                                 200, with the cosignature

The checks and the move of the row are one transaction; the answer comes after it.
"""

from __future__ import annotations

import enum
import http
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from strongroom.tlog.checkpoint import parse_body
from strongroom.tlog.cosignature import Cosignature, cosigned_message
from strongroom.tlog.errors import CheckpointInvalidError, ConsistencyInvalidError
from strongroom.tlog.merkle import EMPTY_ROOT, verify_consistency
from strongroom.tlog.note import CosignerKey, VerifierKey, note_line, signatures_of
from strongroom_auditlog.witness.request import AddCheckpoint, RequestMalformedError, parse_request
from strongroom_auditlog.witness.store import Cosigned, WitnessStore

__all__ = ["Accepted", "Refusal", "Verdict", "Witness"]


class Verdict(enum.Enum):
    """How a request ended: a label for metrics, and the HTTP status."""

    COSIGNED = ("cosigned", http.HTTPStatus.OK)
    MALFORMED = ("malformed", http.HTTPStatus.BAD_REQUEST)
    UNKNOWN_LOG = ("unknown_log", http.HTTPStatus.NOT_FOUND)
    BAD_SIGNATURE = ("bad_signature", http.HTTPStatus.FORBIDDEN)
    CONFLICT = ("conflict", http.HTTPStatus.CONFLICT)
    INCONSISTENT = ("inconsistent", http.HTTPStatus.UNPROCESSABLE_ENTITY)
    TOO_LARGE = ("too_large", http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    FAULT = ("fault", http.HTTPStatus.INTERNAL_SERVER_ERROR)

    def __init__(self, label: str, status: http.HTTPStatus):
        self.label = label
        self.status = status


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """A checkpoint is not cosigned."""

    def __init__(self, verdict: Verdict, message: str, *, size: int | None = None):
        super().__init__(message)
        self.verdict = verdict
        self.size = size
        """With a conflict: the size that was cosigned last."""
        self.is_fork = False
        """Whether the log signed another root of the size that was cosigned last."""
        self.evidence: str | None = None
        """The checkpoint, once it is known to be the log's."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A checkpoint was cosigned."""

    origin: str
    size: int
    cosignature: Cosignature


class Witness:
    """Cosigns for some logs with one key. Thread safety: complete."""

    def __init__(
        self,
        name: str,
        private_key: Ed25519PrivateKey,
        logs: Mapping[str, Sequence[VerifierKey]],
        store: WitnessStore,
        *,
        wall_clock: Callable[[], float],
    ):
        """Take what is needed; `logs` are the keys that sign for each origin."""
        self._private_key = private_key
        self._logs = logs
        self._store = store
        self._wall_clock = wall_clock
        self.key = CosignerKey(name, private_key.public_key().public_bytes_raw())

    def add_checkpoint(self, data: bytes) -> Accepted:
        """Decide upon a request, and remember what was cosigned.

        Raises:
            Refusal: The checkpoint is not cosigned.
            LogError: The store failed; nothing may be said.
        """
        try:
            request = parse_request(data)
        except RequestMalformedError as exc:
            raise Refusal(Verdict.MALFORMED, str(exc)) from exc
        keys = self._logs.get(request.origin)
        if keys is None:
            raise Refusal(Verdict.UNKNOWN_LOG, "no such log is witnessed here")
        try:
            size, root = parse_body(request.body, request.origin)
        except CheckpointInvalidError as exc:
            raise Refusal(Verdict.MALFORMED, exc.what) from exc
        log_lines = _verify_signatures(request, keys)
        if request.old > size:
            raise Refusal(Verdict.MALFORMED, "the old size is larger than the checkpoint's")
        with self._store.changing(request.origin) as change:
            try:
                _check_growth(request, change.last, size, root)
            except Refusal as exc:
                # Two roots of one size under the log's signature: proof of a fork, whatever
                # else is wrong with the request. A bad proof alone shows nothing, since
                # anybody can send one with a checkpoint that was published.
                exc.is_fork = size == change.last.size and root != change.last.root
                exc.evidence = request.body + "\n" + log_lines
                raise
            cosignature = self._cosign(request.body)
            note = f"{request.body}\n{log_lines}{cosignature.line}"
            change.replace(Cosigned(size, root, note))
        return Accepted(request.origin, size, cosignature)

    def last_checkpoint(self, origin: str) -> str | None:
        """Return the last cosigned checkpoint of a log, as a note; None when there is none.

        Raises:
            LogError: The store failed.
        """
        return self._store.load(origin).note or None

    def _cosign(self, body: str) -> Cosignature:
        timestamp = int(self._wall_clock())
        signature = self._private_key.sign(cosigned_message(body, timestamp))
        return Cosignature(self.key, timestamp, signature)


def _verify_signatures(request: AddCheckpoint, keys: Sequence[VerifierKey]) -> str:
    """Return the signature lines of the log, all of which verify."""
    lines: list[str] = []
    for key in keys:
        public_key = Ed25519PublicKey.from_public_bytes(key.public_key)
        for signature in signatures_of(key, request.signatures):
            try:
                public_key.verify(signature, request.body.encode())
            except InvalidSignature as exc:
                raise Refusal(
                    Verdict.BAD_SIGNATURE, "a signature of the log's key does not verify"
                ) from exc
            lines.append(note_line(key.name, key.key_id + signature))
    if not lines:
        raise Refusal(Verdict.BAD_SIGNATURE, "no signature of the log's key")
    return "".join(lines)


def _check_growth(request: AddCheckpoint, last: Cosigned, size: int, root: bytes) -> None:
    """Check that the last cosigned tree is a prefix of the new one."""
    if request.old != last.size:
        raise Refusal(Verdict.CONFLICT, f"the last cosigned size is {last.size}", size=last.size)
    if size == 0 and root != EMPTY_ROOT:
        raise Refusal(Verdict.INCONSISTENT, "an empty tree has another root")
    try:
        # An empty first tree and equal sizes have an empty proof; equal sizes, equal roots.
        verify_consistency(
            first=last.size,
            second=size,
            first_root=last.root,
            second_root=root,
            proof=request.proof,
        )
    except ConsistencyInvalidError as exc:
        raise Refusal(Verdict.INCONSISTENT, exc.what) from exc
