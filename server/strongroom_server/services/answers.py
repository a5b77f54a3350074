"""First answers of mutations, as the store keeps them under a request id.

JSON in one fixed shape; the store takes it as opaque text. Only what an answer shows is
kept, so a repeat returns what the first call returned, whatever happened since.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from strongroom.resource_names import AliasName
from strongroom_server.domain.keys import (
    Alias,
    Key,
    KeyManager,
    KeySpec,
    KeyState,
    KeyStorage,
    KeyUsage,
    KeyVersion,
)

__all__ = ["Answer", "decode_answer", "encode_answer"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a mutation answers: a key, or an alias."""

    key: Key | None = None
    alias: Alias | None = None


def encode_answer(answer: Answer) -> str:
    """Encode for the store.

    The key's policy and its wrapped material are not part of any answer and left out.
    """
    document: dict[str, object] = {}
    if answer.key is not None:
        key = answer.key
        document["key"] = {
            "id": str(key.key_id),
            "region": key.region,
            "spec": key.spec,
            "usage": key.usage,
            "state": key.state,
            "manager": key.manager,
            "description": key.description,
            "primary": key.primary_version,
            "creator": key.creator,
            "created": key.create_time.isoformat(),
            "updated": key.update_time.isoformat(),
            "revision": key.revision,
            "versions": [
                [v.number, v.create_time.isoformat(), v.reserved_uses] for v in key.versions
            ],
            "storage": key.storage,
        }
    if answer.alias is not None:
        document["alias"] = {
            "name": str(answer.alias.name),
            "key_id": str(answer.alias.key_id),
            "created": answer.alias.create_time.isoformat(),
        }
    return json.dumps(document, separators=(",", ":"))


def decode_answer(text: str) -> Answer:
    """Decode what `encode_answer` made; the store's integrity is checked elsewhere."""
    document = json.loads(text)
    key = alias = None
    if (data := document.get("key")) is not None:
        key = Key(
            key_id=UUID(data["id"]),
            region=data["region"],
            spec=KeySpec(data["spec"]),
            usage=KeyUsage(data["usage"]),
            state=KeyState(data["state"]),
            manager=KeyManager(data["manager"]),
            description=data["description"],
            primary_version=data["primary"],
            creator=data["creator"],
            create_time=datetime.fromisoformat(data["created"]),
            update_time=datetime.fromisoformat(data["updated"]),
            revision=data["revision"],
            policy="",
            versions=tuple(
                KeyVersion(number, datetime.fromisoformat(created), uses)
                for number, created, uses in data["versions"]
            ),
            # Answers from before there was a choice do not have it.
            storage=KeyStorage(data.get("storage", KeyStorage.RESIDENT)),
        )
    if (data := document.get("alias")) is not None:
        alias = Alias(
            name=AliasName.parse(data["name"]),
            key_id=UUID(data["key_id"]),
            create_time=datetime.fromisoformat(data["created"]),
        )
    return Answer(key, alias)
