"""What a worker's answer means to the caller: the one table of statuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from strongroom_server.errors import (
    ArgumentInvalidError,
    CiphertextInvalidError,
    HsmUnavailableError,
    InternalError,
    KeySpecUnsupportedError,
    LimitExceededError,
    MacInvalidError,
    SignatureInvalidError,
    StrongroomError,
)
from strongroom_server.hsm.wire import Answer, Operation, Status

__all__ = ["error_for"]

_MAKERS: Final = frozenset(
    {
        Operation.CREATE,
        Operation.CREATE_ROOT,
        Operation.CREATE_WRAPPED,
        Operation.MAKE_TRANSFER_KEY,
        Operation.IMPORT,
        Operation.IMPORT_EXTERNAL,
    }
)

_VERIFICATIONS: Final[dict[int, type[SignatureInvalidError | MacInvalidError]]] = {
    Operation.VERIFY: SignatureInvalidError,
    Operation.VERIFY_DIGEST: SignatureInvalidError,
    Operation.VERIFY_MAC: MacInvalidError,
}


def error_for(  # noqa: C901, PLR0911 - one for each status: it is a table
    region: str, operation: int, answer: Answer, alarm: Callable[[str, str], None]
) -> tuple[StrongroomError | None, str]:
    """Return an answer's error, None for a good one, and its category for the metrics.

    None of these is a fault of the HSM: that is how a worker is lost.
    """
    match answer.status:
        case Status.OK:
            return None, "ok"
        case Status.TAMPERED:
            error = _VERIFICATIONS.get(operation, CiphertextInvalidError)
            return error(), "tampered"
        case Status.KEY_ABSENT:
            alarm("key_absent", _text(answer))
            return HsmUnavailableError(
                region, "the HSM does not show a key version that it should hold"
            ), "key_absent"
        case Status.DAMAGED:
            alarm("damaged", _text(answer))
            what = "the stored material of a key version is damaged"
            if operation in _MAKERS:
                what = "the HSM cannot make a key"
            return HsmUnavailableError(region, what), "damaged"
        case Status.UNSUPPORTED:
            return KeySpecUnsupportedError(region, _text(answer)), "unsupported"
        case Status.INVALID:
            field, _, text = _text(answer).partition("\0")
            return ArgumentInvalidError.of(field, "hsm", text), "invalid"
        case Status.FULL:
            alarm("policy", _text(answer))
            if operation in _MAKERS:
                return LimitExceededError(
                    f"region {region}: its HSM has no room for another key"
                ), "policy"
            return HsmUnavailableError(region, "the HSM is out of memory"), "policy"
        case Status.EXPIRED:
            return HsmUnavailableError(region, "the deadline has passed"), "deadline"
        case _:
            alarm("policy", _text(answer))
            return InternalError(), "policy"


def _text(answer: Answer) -> str:
    return answer.first.decode(errors="replace")
