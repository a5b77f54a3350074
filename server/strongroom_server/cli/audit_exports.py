"""Records in the shapes that others' tools read (docs/formats/audit-exports.md).

Pure: from the bytes of a record and its leaf to a JSON object.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any, Final

from strongroom.receipts import Receipt
from strongroom_auditlog.record_filter import RecordFields

__all__ = ["cloudtrail_event", "leaf_in", "ocsf_event", "receipt_of"]

Members = dict[str, Any]

_NO_TIME: Final = "1970-01-01T00:00:00.000000Z"

_PEER: Final = re.compile(r"ipv[46]:(?P<host>\[[^\]]+\]|%5B[^%]+%5D|[^:]+):(?P<port>[0-9]{1,5})")
_CHANGES: Final = re.compile(
    r"(Create|Import|Replicate|Update|Enable|Disable|Rotate|Put|Tag|Untag|Schedule|Cancel"
    r"|Delete|Retire|Revoke)[A-Z]"
)

CLOUDTRAIL_VERSION: Final = "1.11"
OCSF_VERSION: Final = "1.7.0"
_OCSF_CLASS: Final = 6003  # API Activity
_OCSF_ACTIVITIES: Final = (
    (1, "Create", re.compile(r"(Create|Import|Replicate)[A-Z]")),
    (2, "Read", re.compile(r"(Get|List|Explain)[A-Z]")),
    (3, "Update", re.compile(r"(Update|Enable|Disable|Rotate|Put|Tag|Untag|Schedule|Cancel)[A-Z]")),
    (4, "Delete", re.compile(r"(Delete|Retire|Revoke)[A-Z]")),
)
_OCSF_OTHER: Final = 99
_OCSF_SEVERITIES: Final = {
    "OK": (1, "Informational"),
    "REFUSED": (2, "Low"),
    "DENIED": (3, "Medium"),
    "FAILED": (4, "High"),
}


def receipt_of(record: bytes, members: Members) -> Receipt:
    """Return the receipt that was given for a record."""
    return Receipt.for_record(
        region=members["region"],
        epoch=members["epoch"],
        sequence=members["sequence"],
        record=record,
    )


def _parse(record: bytes) -> tuple[Members, RecordFields]:
    """Return all members, and those that every record has as texts, whatever it says.

    The log checks no more of a record than its place: a shard that writes nonsense must not
    keep the others' records from being exported.
    """
    members: Members = json.loads(record)
    fields = RecordFields.of_members(members)
    try:
        datetime.fromisoformat(fields.time)
    except ValueError:
        fields = fields._replace(time=_NO_TIME)
    return members, fields


def _without_none(members: Members) -> Members:
    return {name: value for name, value in members.items() if value is not None}


def _peer(members: Members) -> tuple[str, int | None]:
    """Return address and port of the caller; the peer as it is when it is no IP address."""
    peer = str(members.get("peer", ""))
    match = _PEER.fullmatch(peer)
    if match is None:
        return peer, None
    host = match["host"].replace("%5B", "").replace("%5D", "").strip("[]")
    return host, int(match["port"])


def _trust_domain(principal: str) -> str | None:
    if not principal.startswith("spiffe://"):
        return None
    return principal.removeprefix("spiffe://").partition("/")[0]


def cloudtrail_event(leaf: int, record: bytes) -> Members:
    """Return a record as an event in the shape of AWS CloudTrail's for KMS."""
    members, fields = _parse(record)
    principal, key = fields.principal, fields.key or None
    domain = _trust_domain(principal)
    host, _ = _peer(members)
    succeeded = fields.outcome == "OK"
    identity = {"type": "SPIFFE" if domain is not None else "Service", "principalId": principal}
    if domain is not None:
        identity |= {"arn": principal, "accountId": domain}
    else:
        identity |= {"invokedBy": principal}
    return _without_none(
        {
            "eventVersion": CLOUDTRAIL_VERSION,
            "userIdentity": identity,
            "eventTime": f"{fields.time[:19]}Z",
            "eventSource": "strongroom",
            "eventName": fields.method,
            "awsRegion": fields.region,
            "sourceIPAddress": host,
            "requestParameters": _without_none(
                {
                    "keyId": key,
                    "encryptionContext": members.get("encryption_context") or None,
                    "dryRun": members.get("validate_only") or None,
                }
            ),
            "errorCode": None if succeeded else fields.reason or fields.outcome,
            "requestID": members.get("request_id"),
            "eventID": members.get("id"),
            "readOnly": _CHANGES.match(fields.method) is None,
            "resources": (
                None
                if key is None
                else [_without_none({"ARN": key, "type": "Strongroom::Key", "accountId": domain})]
            ),
            "eventType": "AwsApiCall",
            "managementEvent": True,
            "recipientAccountId": domain,
            "eventCategory": "Management",
            "additionalEventData": _without_none(
                {
                    "receipt": str(receipt_of(record, members)),
                    "leafIndex": leaf,
                    "eventTimePrecise": fields.time,
                    "outcome": fields.outcome,
                    "keyVersion": members.get("key_version"),
                    "policy": members.get("policy"),
                }
            ),
        }
    ) | {"responseElements": None}


def ocsf_event(leaf: int, record: bytes) -> Members:
    """Return a record as an OCSF event of the class API Activity (6003)."""
    members, fields = _parse(record)
    method, outcome, principal = fields.method, fields.outcome, fields.principal
    activity, name = next(
        ((uid, caption) for uid, caption, form in _OCSF_ACTIVITIES if form.match(method)),
        (_OCSF_OTHER, method or "unknown"),
    )
    severity, severity_caption = _OCSF_SEVERITIES.get(outcome, (0, "Unknown"))
    succeeded = outcome == "OK"
    host, port = _peer(members)
    receipt = receipt_of(record, members)
    key = fields.key or None
    why = None if succeeded else fields.reason or outcome
    return _without_none(
        {
            "category_uid": 6,
            "category_name": "Application Activity",
            "class_uid": _OCSF_CLASS,
            "class_name": "API Activity",
            "activity_id": activity,
            "activity_name": name,
            "type_uid": _OCSF_CLASS * 100 + activity,
            "type_name": f"API Activity: {name if activity != _OCSF_OTHER else 'Other'}",
            "severity_id": severity,
            "severity": severity_caption,
            "status_id": 1 if succeeded else 2,
            "status": "Success" if succeeded else "Failure",
            "status_code": why,
            "status_detail": None if succeeded else outcome,
            "time": _milliseconds(fields.time),
            "actor": {
                "user": {"name": principal, "uid": principal, "type_id": 4, "type": "Service"}
            },
            "api": _without_none(
                {
                    "operation": method,
                    "service": {"name": "strongroom"},
                    "request": (
                        {"uid": str(members["request_id"])} if "request_id" in members else None
                    ),
                    "response": None if why is None else {"error": why},
                }
            ),
            "src_endpoint": (
                {"ip": host, "port": port} if port is not None else {"name": host or "unknown"}
            ),
            "resources": (
                None
                if key is None
                else [
                    _without_none(
                        {
                            "name": key,
                            "uid": key,
                            "type": "Key",
                            "namespace": fields.region,
                            "version": (
                                str(members["key_version"]) if "key_version" in members else None
                            ),
                        }
                    )
                ]
            ),
            "metadata": {
                "version": OCSF_VERSION,
                "product": {"name": "Strongroom", "vendor_name": "Strongroom"},
                "log_name": "audit",
                "event_code": method,
                "uid": str(receipt),
                "original_event_uid": str(members.get("id", "")),
                "original_time": fields.time,
                "sequence": leaf,
            },
            "unmapped": _without_none(
                {
                    "receipt": str(receipt),
                    "leaf_index": leaf,
                    "outcome": outcome,
                    "encryption_context": members.get("encryption_context") or None,
                    "policy": members.get("policy"),
                    "validate_only": members.get("validate_only"),
                }
            ),
        }
    )


def _milliseconds(time: str) -> int:
    moment = datetime.fromisoformat(time)
    # In whole numbers: a float would lose the last digit of some.
    return int(moment.replace(microsecond=0).timestamp()) * 1000 + moment.microsecond // 1000


def leaf_in(line: Members) -> tuple[int, str] | None:
    """Return leaf and receipt that an exported event carries; None when it is none of ours."""
    extra = line.get("additionalEventData")
    if isinstance(extra, dict):
        leaf, receipt = extra.get("leafIndex"), extra.get("receipt")
    else:
        extra = line.get("unmapped")
        if not isinstance(extra, dict):
            return None
        leaf, receipt = extra.get("leaf_index"), extra.get("receipt")
    if type(leaf) is not int or type(receipt) is not str:
        return None
    return leaf, receipt
