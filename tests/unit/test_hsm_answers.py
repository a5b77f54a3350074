"""What a worker's answer means to the caller."""

from __future__ import annotations

import pytest

from strongroom_server.errors import (
    ArgumentInvalidError,
    CiphertextInvalidError,
    HsmUnavailableError,
    InternalError,
    KeySpecUnsupportedError,
    LimitExceededError,
    MacInvalidError,
    SignatureInvalidError,
)
from strongroom_server.hsm.answers import error_for
from strongroom_server.hsm.wire import Answer, Operation, Status


@pytest.mark.parametrize(
    ("operation", "status", "error", "category", "alarm"),
    [
        (Operation.DECRYPT, Status.TAMPERED, CiphertextInvalidError, "tampered", None),
        (Operation.RSA_DECRYPT, Status.TAMPERED, CiphertextInvalidError, "tampered", None),
        (Operation.IMPORT, Status.TAMPERED, CiphertextInvalidError, "tampered", None),
        (Operation.VERIFY, Status.TAMPERED, SignatureInvalidError, "tampered", None),
        (Operation.VERIFY_DIGEST, Status.TAMPERED, SignatureInvalidError, "tampered", None),
        (Operation.VERIFY_MAC, Status.TAMPERED, MacInvalidError, "tampered", None),
        (Operation.DECRYPT, Status.KEY_ABSENT, HsmUnavailableError, "key_absent", "key_absent"),
        (Operation.DECRYPT, Status.DAMAGED, HsmUnavailableError, "damaged", "damaged"),
        (Operation.CREATE, Status.UNSUPPORTED, KeySpecUnsupportedError, "unsupported", None),
        (Operation.AGREE, Status.INVALID, ArgumentInvalidError, "invalid", None),
        (Operation.DECRYPT, Status.EXPIRED, HsmUnavailableError, "deadline", None),
        (Operation.DECRYPT, Status.POLICY, InternalError, "policy", "policy"),
        (Operation.CREATE, Status.FULL, LimitExceededError, "policy", "policy"),
        (Operation.CREATE_WRAPPED, Status.FULL, LimitExceededError, "policy", "policy"),
        (Operation.DECRYPT, Status.FULL, HsmUnavailableError, "policy", "policy"),
    ],
)
def test_statuses(
    operation: Operation,
    status: Status,
    error: type[Exception],
    category: str,
    alarm: str | None,
) -> None:
    """Each status is one error, one category, and an alarm when a person must look."""
    alarms: list[tuple[str, str]] = []
    answer = Answer(1, status, 0, b"field\0why", b"")
    made, told = error_for("eu", operation, answer, lambda *alarm: alarms.append(alarm))
    assert type(made) is error
    assert told == category
    assert [each for each, _ in alarms] == ([alarm] if alarm else [])


def test_ok_is_no_error() -> None:
    """A good answer gives none."""
    answer = Answer(1, Status.OK, 0, b"", b"")
    assert error_for("eu", Operation.PING, answer, lambda *_: None) == (None, "ok")


def test_a_refused_argument_names_its_field() -> None:
    """The caller hears which argument is wrong and why, and nothing of what the HSM said."""
    answer = Answer(1, Status.INVALID, 0, b"public_key\0must be on the curve", b"")
    error, _ = error_for("eu", Operation.AGREE, answer, lambda *_: None)
    assert isinstance(error, ArgumentInvalidError)
    (violation,) = error.violations
    assert (violation.field, violation.description) == ("public_key", "must be on the curve")


def test_internals_do_not_reach_the_caller() -> None:
    """Labels and return codes go into the alarm, not into the error."""
    for status in (Status.KEY_ABSENT, Status.DAMAGED, Status.POLICY):
        answer = Answer(1, status, 0, b"CKR_SECRET strongroom/1", b"")
        error, _ = error_for("eu", Operation.DECRYPT, answer, lambda *_: None)
        assert error is not None
        assert "CKR" not in str(error)
        assert "strongroom/1" not in str(error)
