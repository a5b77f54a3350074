"""Low-entropy identifiers, hashed under a key (audit-record-v1.md, Hashed identifiers).

A plain hash of an address or an account number is looked up in a table within a second;
under a key that only the auditor has besides the server, it is not.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import stat
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from strongroom_server.domain.peer_address import address_of
from strongroom_server.errors import StartRefusedError
from strongroom_server.mutations import AuditDraft

__all__ = ["HASHABLE", "IdentifierHasher", "load_identifier_key"]

HASHABLE: Final = ("peer", "principal", "request_id", "encryption_context")

_PREFIX: Final = "hmac-sha256:"
_KEY_FILE: Final = re.compile(rb"([0-9a-f]{64})\n?")
_KEY_ID_LABEL: Final = b"strongroom audit identifier key"
_KEY_ID_DIGITS: Final = 16
_OF_THE_SERVICE: Final = "strongroom:"
# Members of `details` that name principals: of CreateGrant and its like, and ExplainAccess.
_PRINCIPALS_IN_DETAILS: Final = ("grantee", "retiring", "principal")


def load_identifier_key(path: Path) -> bytes:
    """Read the key: 32 bytes as 64 lower-case hex digits, readable by its owner alone.

    Raises:
        StartRefusedError: It cannot be read, others may read it, or it is something else.
    """
    try:
        mode = path.stat().st_mode
        # Bounded: a wrong path must not fill the memory.
        with path.open("rb") as file:
            content = file.read(128)
    except OSError as exc:
        raise StartRefusedError(
            f"{path}: {exc.strerror}; make it with `openssl rand -hex 32`"
        ) from exc
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise StartRefusedError(f"{path}: others may read it; run `chmod 600 {path}`")
    match = _KEY_FILE.fullmatch(content)
    if match is None:
        raise StartRefusedError(
            f"{path}: expected 64 lower-case hex digits and nothing else; make it with "
            "`openssl rand -hex 32`"
        )
    return bytes.fromhex(match[1].decode())


class IdentifierHasher:
    """Hashes the configured fields of drafts. Holds no state but the key.

    Thread safety: complete.
    """

    def __init__(self, key: bytes, fields: Collection[str]) -> None:
        """Take the key, 32 bytes, and which of HASHABLE to hash.

        Raises:
            ValueError: A field is none of them.
        """
        unknown = set(fields) - set(HASHABLE)
        if unknown:
            raise ValueError(f"not to be hashed: {', '.join(sorted(unknown))}")
        self._key = key
        self._fields = frozenset(fields)
        self.key_id = hmac.new(key, _KEY_ID_LABEL, hashlib.sha256).hexdigest()[:_KEY_ID_DIGITS]

    def hash(self, value: str) -> str:
        """Return what stands in records instead of `value`; the empty text stays empty."""
        if not value:
            return value
        data = value.encode("utf-8", "surrogatepass")
        return _PREFIX + hmac.new(self._key, data, hashlib.sha256).hexdigest()

    def hide(self, draft: AuditDraft) -> AuditDraft:
        """Return the draft with the configured fields hashed, and the id of the key."""
        fields = self._fields
        peer, principal = draft.peer, draft.principal
        request_id, context = draft.request_id, draft.encryption_context
        details = draft.details
        if "peer" in fields:
            peer = self.hash(address_of(peer))
        if "principal" in fields:
            if not principal.startswith(_OF_THE_SERVICE):
                principal = self.hash(principal)
            details = {
                name: self.hash(text) if name in _PRINCIPALS_IN_DETAILS else text
                for name, text in details.items()
            }
        if "request_id" in fields:
            request_id = self.hash(request_id)
        if "encryption_context" in fields:
            context = self._hash_values(context)
        return replace(
            draft,
            peer=peer,
            principal=principal,
            request_id=request_id,
            encryption_context=context,
            details=details,
            identifier_key=self.key_id,
        )

    def _hash_values(self, texts: Mapping[str, str]) -> Mapping[str, str]:
        return {name: self.hash(value) for name, value in texts.items()}
