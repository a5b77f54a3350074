"""First answers of mutations, as the store keeps them under a request id.

JSON in one fixed shape; the store takes it as opaque text. Only what an answer shows is
kept, so a repeat returns what the first call returned, whatever happened since.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from strongroom.resource_names import AliasName
from strongroom_server.domain.grants import Grant
from strongroom_server.domain.keys import (
    Alias,
    AuditMode,
    Deletion,
    Key,
    KeyManager,
    KeySpec,
    KeyState,
    KeyStorage,
    KeyUsage,
    KeyVersion,
)
from strongroom_server.domain.policy_history import PolicyRevision
from strongroom_server.services.import_answers import (
    ImportParameters,
    decode_external,
    decode_parameters,
    encode_external,
    encode_parameters,
)
from strongroom_server.services.permission_answers import (
    decode_grant,
    decode_revision,
    encode_grant,
    encode_revision,
)

__all__ = ["Answer", "ImportParameters", "decode_answer", "encode_answer"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a mutation answers: one of these."""

    key: Key | None = None
    alias: Alias | None = None
    grant: Grant | None = None
    revision: PolicyRevision | None = None
    parameters: ImportParameters | None = None


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
                [
                    *(v.number, v.create_time.isoformat(), v.reserved_uses),
                    *_encode_end(v),
                    encode_external(v.external),
                ]
                for v in key.versions
            ],
            "storage": key.storage,
            "audit_mode": key.audit_mode,
            "end": _encode_end(key),
            "tags": dict(key.tags),
        }
    if answer.alias is not None:
        document["alias"] = {
            "name": str(answer.alias.name),
            "key_id": str(answer.alias.key_id),
            "created": answer.alias.create_time.isoformat(),
            "updated": _iso(answer.alias.update_time),
        }
    if answer.grant is not None:
        document["grant"] = encode_grant(answer.grant)
    if answer.parameters is not None:
        document["parameters"] = encode_parameters(answer.parameters)
    if answer.revision is not None:
        document["revision"] = encode_revision(answer.revision)
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
                KeyVersion(
                    *(number, datetime.fromisoformat(created), uses, None),
                    *_decode_end(rest[:3]),
                    external=decode_external(rest[3:]),
                )
                for number, created, uses, *rest in data["versions"]
            ),
            # Answers from before there was a choice, or an end, do not have it.
            storage=KeyStorage(data.get("storage", KeyStorage.RESIDENT)),
            audit_mode=AuditMode(data.get("audit_mode", AuditMode.REQUIRED)),
            deletion=_decode_end(data.get("end"))[0],
            destroy_time=_decode_end(data.get("end"))[1],
            tags=tuple(data.get("tags", {}).items()),
        )
    if (data := document.get("alias")) is not None:
        alias = Alias(
            name=AliasName.parse(data["name"]),
            key_id=UUID(data["key_id"]),
            create_time=datetime.fromisoformat(data["created"]),
            update_time=_time(data.get("updated")),
        )
    grant, revision = document.get("grant"), document.get("revision")
    parameters = document.get("parameters")
    return Answer(
        key,
        alias,
        None if grant is None else decode_grant(grant),
        None if revision is None else decode_revision(revision),
        None if parameters is None else decode_parameters(parameters),
    )


def _encode_end(of: Key | KeyVersion) -> list[object]:
    """Return time and mark of the deletion that waits, and the time of the destruction."""
    waiting = of.deletion
    return [
        None if waiting is None else waiting.time.isoformat(),
        None if waiting is None else waiting.mark,
        _iso(of.destroy_time),
    ]


def _decode_end(fields: list[Any] | None) -> tuple[Deletion | None, datetime | None]:
    if not fields:
        return None, None
    time, mark, destroyed = fields
    waiting = None if time is None else Deletion(datetime.fromisoformat(time), mark)
    return waiting, _time(destroyed)


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
