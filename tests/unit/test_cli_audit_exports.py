"""Exported events have the shape that CloudTrail and OCSF promise, and every fact of a record."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.audit_records import receipt_of, record

from strongroom_server.cli.audit_exports import cloudtrail_event, leaf_in, ocsf_event
from strongroom_server.cli.audit_options import AuditFormat
from strongroom_server.cli.audit_print import line_of

DOCS = Path(__file__).resolve().parents[2] / "docs" / "formats" / "audit-exports.md"

OK = record("eu-1", 5, 7, request_id="0198b5a6-0000-7000-8000-000000000001")
DENIED = record(
    "eu-1",
    5,
    8,
    method="RotateKey",
    outcome="DENIED",
    reason="POLICY_DENIED",
    key_version=None,
    peer="ipv6:%5B2001:db8::7%5D:40000",
)
INTERNAL = record("eu-1", 5, 9, principal="strongroom:rotation", peer="", method="RotateKey")


def test_cloudtrail_has_the_fields_of_kms_events() -> None:
    """Names, places and values are those that CloudTrail uses for KMS."""
    event = cloudtrail_event(41, OK)
    key = "regions/eu-1/keys/3f0c2a52-5d0d-4f5e-9a75-1a2b3c4d5e6f"
    assert event == {
        "eventVersion": "1.11",
        "userIdentity": {
            "type": "SPIFFE",
            "principalId": "spiffe://example.org/orders",
            "arn": "spiffe://example.org/orders",
            "accountId": "example.org",
        },
        "eventTime": "2026-01-02T03:04:05Z",
        "eventSource": "strongroom",
        "eventName": "Decrypt",
        "awsRegion": "eu-1",
        "sourceIPAddress": "192.0.2.7",
        "requestParameters": {"keyId": key, "encryptionContext": {"tenant": "acme"}},
        "responseElements": None,
        "requestID": "0198b5a6-0000-7000-8000-000000000001",
        "eventID": "01900000-0000-7000-8000-000000000007",
        "readOnly": True,
        "resources": [{"ARN": key, "type": "Strongroom::Key", "accountId": "example.org"}],
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "recipientAccountId": "example.org",
        "eventCategory": "Management",
        "additionalEventData": {
            "receipt": str(receipt_of(OK)),
            "leafIndex": 41,
            "eventTimePrecise": "2026-01-02T03:04:05.678901Z",
            "outcome": "OK",
            "keyVersion": 1,
            "policy": "owner",
        },
    }


def test_cloudtrail_tells_refusals_and_changes() -> None:
    """A refusal has an error code, a change is not read-only, IPv6 addresses are plain."""
    event = cloudtrail_event(0, DENIED)
    assert event["errorCode"] == "POLICY_DENIED"
    assert event["readOnly"] is False
    assert event["sourceIPAddress"] == "2001:db8::7"
    assert "errorCode" not in cloudtrail_event(0, OK)
    internal = cloudtrail_event(0, INTERNAL)
    assert internal["userIdentity"] == {
        "type": "Service",
        "principalId": "strongroom:rotation",
        "invokedBy": "strongroom:rotation",
    }


#: schema.ocsf.io/1.7.0/classes/api_activity, without profiles: what is required of an event.
REQUIRED = {
    "activity_id": int,
    "actor": dict,
    "api": dict,
    "category_uid": int,
    "class_uid": int,
    "metadata": dict,
    "severity_id": int,
    "src_endpoint": dict,
    "time": int,
    "type_uid": int,
}


def check_ocsf(event: dict[str, Any]) -> None:
    """Check what the schema requires of the class and of the objects in it."""
    for name, kind in REQUIRED.items():
        assert type(event[name]) is kind, name
    assert (event["category_uid"], event["class_uid"]) == (6, 6003)
    assert event["activity_id"] in {1, 2, 3, 4, 99}
    assert event["type_uid"] == 6003 * 100 + event["activity_id"]
    assert event["severity_id"] in {0, 1, 2, 3, 4}
    assert event["status_id"] in {1, 2}
    # `activity_name` has to say what 99, Other, is.
    assert event["activity_name"] or event["activity_id"] != 99
    assert type(event["metadata"]["version"]) is str
    assert {"name", "vendor_name"} <= set(event["metadata"]["product"])
    assert type(event["api"]["operation"]) is str
    assert "uid" in event["api"].get("request", {"uid": ""})
    # At least one of each: constraints of actor, user and network_endpoint.
    assert {"user", "process", "session", "app_name"} & set(event["actor"])
    assert {"name", "uid"} & set(event["actor"]["user"])
    assert {"ip", "name", "hostname"} & set(event["src_endpoint"])


def test_ocsf_has_what_the_class_requires() -> None:
    """Every kind of record makes a valid event of the class API Activity."""
    for data in (OK, DENIED, INTERNAL):
        check_ocsf(ocsf_event(3, data))
    event = ocsf_event(3, OK)
    assert event["activity_id"] == 99
    assert event["activity_name"] == "Decrypt"
    assert event["type_name"] == "API Activity: Other"
    assert event["time"] == 1767323045678
    assert event["src_endpoint"] == {"ip": "192.0.2.7", "port": 40000}
    assert event["metadata"]["sequence"] == 3
    assert event["unmapped"]["receipt"] == str(receipt_of(OK))
    denied = ocsf_event(3, DENIED)
    assert (denied["status_id"], denied["status_code"]) == (2, "POLICY_DENIED")
    assert (denied["severity_id"], denied["severity"]) == (3, "Medium")
    assert (denied["activity_id"], denied["activity_name"]) == (3, "Update")


@pytest.mark.parametrize(
    ("method", "activity"),
    [
        ("CreateKey", 1),
        ("ImportKeyMaterial", 1),
        ("GetKey", 2),
        ("ListKeys", 2),
        ("UpdateKey", 3),
        ("ScheduleKeyDeletion", 3),
        ("RotateWrappingRoot", 3),
        ("DeleteAlias", 4),
        ("RetireWrappingRoot", 4),
        ("Encrypt", 99),
        ("GenerateDataKey", 99),
        ("ReEncryptFrom", 99),
        ("Sign", 99),
    ],
)
def test_methods_are_sorted_into_activities(method: str, activity: int) -> None:
    """Create, read, update and delete are OCSF's; everything else is named."""
    event = ocsf_event(0, record("eu-1", 1, 1, method=method))
    assert event["activity_id"] == activity
    assert (activity != 99) or event["activity_name"] == method


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            ["time", "principal", "method", "outcome", "key", "id", "peer", "request_id", "reason"]
        ),
        json_values,
    )
)
def test_strange_records_are_exported_too(changes: dict[str, object]) -> None:
    """Whatever a shard writes beyond a record's place, every form has a line for it."""
    data = record("eu-1", 1, 1, **changes)
    for form in AuditFormat:
        line = line_of(form, 9, data)
        assert b"\n" not in line
        if form is not AuditFormat.TABLE:
            json.loads(line)
    assert cloudtrail_event(9, data)["additionalEventData"]["leafIndex"] == 9
    check_ocsf(ocsf_event(9, data))


def test_an_event_knows_its_leaf() -> None:
    """Both forms carry leaf and receipt; anything else has none."""
    for event in (cloudtrail_event(41, OK), ocsf_event(41, OK)):
        assert leaf_in(json.loads(json.dumps(event))) == (41, str(receipt_of(OK)))
    for other in ({}, {"unmapped": 3}, {"additionalEventData": {"leafIndex": "3"}}):
        assert leaf_in(other) is None


def test_every_field_of_a_record_is_on_the_page() -> None:
    """The page has each field of a record, and each field of an event."""
    page = DOCS.read_text(encoding="utf-8")
    fields = json.loads(OK).keys() | {"reason"}
    for name in fields:
        assert f"| `{name}`" in page, name
    section = dict(re.findall(r"\n## (\w+).*?\n(.*?)(?=\n## |\Z)", page, re.DOTALL))
    for name in cloudtrail_event(1, DENIED):
        assert f"`{name}" in section["CloudTrail"], name
    for name in ocsf_event(1, DENIED):
        assert f"`{name}" in section["OCSF"], name
