"""``[audit]``: what audit records show."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from strongroom_server.config_types import Section

__all__ = ["AuditConfig"]

Hashable = Literal["peer", "principal", "request_id", "encryption_context"]


class AuditConfig(Section):
    """``[audit]``: what audit records show."""

    hash_identifiers: tuple[Hashable, ...] = Field(
        (),
        description="fields of audit records that are hashed under a key: peer, principal, "
        "request_id, encryption_context (its values); see formats/audit-record-v1.md",
    )
    identifier_key_file: Path | None = Field(
        None,
        description="file with that key, 64 hex digits (openssl rand -hex 32), mode 0600; required "
        "with hash_identifiers. Auditors need it to search, so it is kept as long as the log",
    )

    @model_validator(mode="after")
    def _check_both(self) -> Self:
        if bool(self.hash_identifiers) != (self.identifier_key_file is not None):
            raise ValueError("hash_identifiers and identifier_key_file go together")
        return self
