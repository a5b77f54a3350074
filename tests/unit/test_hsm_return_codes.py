"""The table from return codes to actions, against the standard's list and the library's."""

from __future__ import annotations

import itertools

import pytest
from pkcs11 import exceptions

from strongroom_server.hsm.return_codes import (
    RV_BY_EXCEPTION,
    TABLE,
    Action,
    ReturnCodeError,
    action_for,
    name_of,
)
from strongroom_server.hsm.token import _translate

# PKCS#11 3.1, appendix B, without CKR_OK and CKR_VENDOR_DEFINED: every code that any
# function can return, and so those that the functions we call can.
STANDARD = {
    *range(0x01, 0x04),
    *range(0x05, 0x0B),
    *range(0x10, 0x14),
    *(0x1B, 0x20, 0x21),
    *range(0x30, 0x33),
    *range(0x40, 0x43),
    *(0x50, 0x51, 0x54, 0x60),
    *range(0x62, 0x6B),
    *(0x70, 0x71, 0x82, 0x90, 0x91),
    *range(0xA0, 0xA5),
    *(0xB0, 0xB1),
    *range(0xB3, 0xB9),
    *(0xC0, 0xC1, 0xD0, 0xD1),
    *range(0xE0, 0xE3),
    *range(0xF0, 0xF3),
    *range(0x100, 0x106),
    *(0x110, 0x112, 0x113, 0x114, 0x115),
    *(0x120, 0x121, 0x130, 0x140, 0x150, 0x160, 0x170, 0x180, 0x190, 0x191),
    *(0x1A0, 0x1A1, 0x1B0, 0x1B1),
    *range(0x1B5, 0x1BA),
    *range(0x200, 0x204),
}
OF_3_2 = set(range(0x204, 0x20A))

# Which codes are more than "refused as such" or "replace the worker", and why they may be.
CLASSES = {
    Action.CALLER: {0x20, 0x21, 0x40, 0x41, 0x42, 0xC0, 0xC1, 0x110, 0x112, 0x1B9},
    Action.AMBIGUOUS: {0x05, 0x06},
    Action.RETRY: {0x01, 0x02, 0x50, 0x1B5},
    Action.REFIND: {0x60, 0x82, 0xF0, 0x113},
    Action.REOPEN: {0x90, 0x91, 0xB0, 0xB3, 0x150, 0x202},
    Action.RELIEVE: {0x31, 0x201},
    Action.STOP: {0xA0, 0xA1, 0xA2, 0xA3, 0xA4, 0x102, 0x1B0, 0x1B1, 0x1B8},
}

# Raised by the library itself, without a call that returned a code.
WITHOUT_CODE = {
    "MultipleObjectsReturned",
    "MultipleTokensReturned",
    "NoSuchKey",
    "NoSuchToken",
}


def test_no_code_of_the_standard_is_missing() -> None:
    """The table has every code of PKCS#11 3.1 and those of 3.2, and no other."""
    assert len(STANDARD) == 97
    assert set(TABLE) == STANDARD | OF_3_2
    assert all(row.name.startswith("CKR_") for row in TABLE.values())
    assert len({row.name for row in TABLE.values()}) == len(TABLE)


@pytest.mark.parametrize("action", CLASSES)
def test_classes(action: Action) -> None:
    """Exactly these codes blame the caller, are tried again, or stop everything."""
    assert {rv for rv, row in TABLE.items() if row.action is action} == CLASSES[action]


def test_what_is_in_no_class_is_refused_or_replaces() -> None:
    """A lost login, module or device replaces the worker; nothing else is left over."""
    rest = set(TABLE) - set(itertools.chain(*CLASSES.values()))
    assert {action_for(rv) for rv in rest} == {Action.POLICY, Action.REPLACE}
    lost = {0x03, 0x30, 0x32, 0xE0, 0xE1, 0x100, 0x101, 0x104, 0x190, 0x1B6}
    assert {action_for(rv) for rv in lost} == {Action.REPLACE}


def test_unknown_codes_are_faults() -> None:
    """A vendor's own code replaces the worker: nobody guesses what it means."""
    for rv in (0, 0x1C0, 0x80000000, 0x80000001, 0xFFFFFFFF):
        assert action_for(rv) is Action.REPLACE
    assert name_of(0x80000001) == "CK_RV 0x80000001"
    assert str(ReturnCodeError(0xA0)) == "CKR_PIN_INCORRECT (0xA0)"


def test_every_library_error_has_its_code() -> None:
    """Each exception class of python-pkcs11 is known, so that no number is lost."""
    classes = {
        name
        for name, value in vars(exceptions).items()
        if isinstance(value, type)
        and issubclass(value, exceptions.PKCS11Error)
        and value is not exceptions.PKCS11Error
    }
    assert classes - WITHOUT_CODE == set(RV_BY_EXCEPTION)
    assert len(set(RV_BY_EXCEPTION.values())) == len(RV_BY_EXCEPTION)
    assert set(RV_BY_EXCEPTION.values()) <= set(TABLE)


@pytest.mark.parametrize(
    ("exception", "rv"),
    [
        (exceptions.GeneralError(), 0x5),
        (exceptions.PKCS11Error("Unmapped error code 0x68"), 0x68),
        (exceptions.PKCS11Error("Unmapped error code 0x80000001"), 0x80000001),
        (exceptions.PKCS11Error("Buffer was too small. Should never see this."), 0x150),
        (
            exceptions.PKCS11Error(
                "Initialisation error (not initialized). Should never see this."
            ),
            0x190,
        ),
        (
            exceptions.PKCS11Error(
                "Initialisation error (already initialized). Should never see this."
            ),
            0x191,
        ),
        (exceptions.PKCS11Error("something else"), 0),
    ],
)
def test_numbers_are_recovered(exception: exceptions.PKCS11Error, rv: int) -> None:
    """The code is found in the class, or in what the library left of it in the text."""
    assert _translate(exception).rv == rv
