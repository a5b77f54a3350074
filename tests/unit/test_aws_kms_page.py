"""docs/aws-kms.md says of every operation of AWS KMS what is here, and which test holds it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from strongroom.kms.v1 import key_service_pb2
from strongroom_server.rpc.key_service import METHODS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "aws-kms.md"
NOT_HERE = {"not yet", "absent"}
# The operations of the service model of botocore 1.44.
OPERATIONS = frozenset(
    [
        "CancelKeyDeletion",
        "ConnectCustomKeyStore",
        "CreateAlias",
        "CreateCustomKeyStore",
        "CreateGrant",
        "CreateKey",
        "Decapsulate",
        "Decrypt",
        "DeleteAlias",
        "DeleteCustomKeyStore",
        "DeleteImportedKeyMaterial",
        "DeriveSharedSecret",
        "DescribeCustomKeyStores",
        "DescribeKey",
        "DisableKey",
        "DisableKeyRotation",
        "DisconnectCustomKeyStore",
        "EnableKey",
        "EnableKeyRotation",
        "Encapsulate",
        "Encrypt",
        "GenerateDataKey",
        "GenerateDataKeyPair",
        "GenerateDataKeyPairWithoutPlaintext",
        "GenerateDataKeyWithoutPlaintext",
        "GenerateMac",
        "GenerateRandom",
        "GetKeyLastUsage",
        "GetKeyPolicy",
        "GetKeyRotationStatus",
        "GetParametersForImport",
        "GetPublicKey",
        "ImportKeyMaterial",
        "ListAliases",
        "ListGrants",
        "ListKeyPolicies",
        "ListKeyRotations",
        "ListKeys",
        "ListResourceTags",
        "ListRetirableGrants",
        "PutKeyPolicy",
        "ReEncrypt",
        "ReplicateKey",
        "RetireGrant",
        "RevokeGrant",
        "RotateKeyOnDemand",
        "ScheduleKeyDeletion",
        "Sign",
        "TagResource",
        "UntagResource",
        "UpdateAlias",
        "UpdateCustomKeyStore",
        "UpdateKeyDescription",
        "UpdatePrimaryRegion",
        "Verify",
        "VerifyMac",
    ]
)


def rows() -> list[list[str]]:
    """Return the rows of the tables of operations."""
    tables = PAGE.read_text(encoding="utf-8").split("| AWS KMS |")[1:]
    lines = [line for table in tables for line in table.splitlines() if line.startswith("| ")]
    return [
        cells
        for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
        if not set(cells[0]) <= {"-", " "}
    ]


def test_every_operation_has_one_row() -> None:
    """All 56, each once, and nothing else."""
    named = [cells[0] for cells in rows()]
    assert len(OPERATIONS) == 56
    assert sorted(named) == sorted(OPERATIONS)
    assert all(len(cells) == 4 for cells in rows())


@pytest.mark.parametrize("cells", rows(), ids=lambda cells: str(cells[0]))
def test_a_row_is_backed_by_what_it_names(cells: list[str]) -> None:
    """What is here is a method that is served, with tests that exist; what is not has a reason."""
    operation, here, differs, tests = cells
    if here in NOT_HERE:
        assert tests == "-", operation
        assert differs != "-" or here == "not yet"
        return
    assert here in key_service_pb2.DESCRIPTOR.services_by_name["KeyService"].methods_by_name
    assert here in METHODS
    named = re.findall(r"`(tests/[a-z0-9_/]+\.py)::(test_[a-z0-9_]+)`", tests)
    assert named, operation
    for path, name in named:
        assert re.search(rf"def {name}\(", (ROOT / path).read_text(encoding="utf-8")), name
