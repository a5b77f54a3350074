"""The policies that a key has had, numbered from 1. Pure data."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from datetime import datetime

from strongroom_server.domain.keys import Key

__all__ = ["FIRST_REVISION", "PolicyRevision"]

FIRST_REVISION = 1


@dataclass(frozen=True, slots=True)
class PolicyRevision:
    """A policy, who put it, and from when on it held, until the next one."""

    key_id: uuid.UUID
    number: int
    text: str
    author: str
    time: datetime

    @classmethod
    def first_of(cls, key: Key) -> PolicyRevision:
        """Return the first one of a key that has never had another."""
        return cls(key.key_id, FIRST_REVISION, key.policy, key.creator, key.create_time)

    @property
    def etag(self) -> str:
        """Changes with every policy of the key."""
        return f"p{self.number}"

    @property
    def sha256(self) -> bytes:
        """The text's SHA-256, 32 bytes."""
        return hashlib.sha256(self.text.encode()).digest()
