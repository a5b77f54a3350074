"""The table of quirks: complete, sourced, and matched to the right modules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from strongroom_server.hsm.ladder import Ladder
from strongroom_server.hsm.probes import PROBES
from strongroom_server.hsm.quirks import QUIRKS, Quirk, quirks_of
from strongroom_server.hsm.return_codes import HsmFaultError, ReturnCodeError, TamperedError
from strongroom_server.hsm.token import TokenInfo

_NOBODY = TokenInfo(
    library="A library",
    library_manufacturer="Somebody",
    library_version=(2, 6),
    cryptoki_version=(2, 40),
    slot=0,
    label="token",
    manufacturer="Somebody",
    model="model",
    serial="1",
    hardware_version=(1, 0),
    firmware_version=(1, 0),
    flags=0,
    session_count=None,
    max_session_count=None,
)


def ids(info: TokenInfo) -> set[str]:
    """Return the ids of a module's quirks."""
    return {quirk.id for quirk in quirks_of(info)}


def test_probes_and_quirks_have_names_of_their_own() -> None:
    """No feature and no quirk is named twice."""
    assert not [name for name, n in Counter(probe.feature for probe in PROBES).items() if n > 1]
    assert not [name for name, n in Counter(quirk.id for quirk in QUIRKS).items() if n > 1]


@pytest.mark.parametrize("quirk", QUIRKS, ids=lambda quirk: quirk.id)
def test_a_quirk_is_complete(quirk: Quirk) -> None:
    """A quirk says what, what about it, and where that is from; its features exist."""
    assert quirk.what
    assert quirk.strongroom
    assert "http" in quirk.source or "probed" in quirk.source
    assert set(quirk.features) <= {probe.feature for probe in PROBES}


def test_a_module_that_nobody_knows_has_no_quirks() -> None:
    """Nothing is assumed of a module that the table does not name."""
    assert not ids(_NOBODY)


def test_quirks_go_with_versions() -> None:
    """What was mended is no quirk any more."""
    old = replace(_NOBODY, library_manufacturer="SoftHSM", library_version=(2, 6))
    new = replace(_NOBODY, library_manufacturer="SoftHSM", library_version=(2, 7))
    assert {"softhsm-gcm-tamper-general-error", "softhsm-no-fsync"} <= ids(old)
    assert "softhsm-gcm-tamper-general-error" not in ids(new)
    assert "softhsm-no-fsync" in ids(new)


def test_only_modules_for_development_may_let_keys_out() -> None:
    """Nobody is excused from keeping keys in but the module that is known to be a toy for it."""
    assert {quirk.module for quirk in QUIRKS if quirk.lets_keys_out} == {"NSS softokn"}


class _Broken:
    """A session whose every call fails with CKR_DEVICE_ERROR."""

    def reopen(self) -> None:
        """Take another session."""

    def call(self) -> bytes:
        """Fail."""
        raise ReturnCodeError(0x30)


def _climb(ambiguous: frozenset[int], canary: Callable[[], None] | None) -> None:
    broken = _Broken()
    ladder = Ladder(broken, on_reopened=lambda: None, ambiguous=ambiguous)
    ladder.run(broken.call, what="decrypt", canary=canary)


def test_a_quirk_makes_a_code_ambiguous() -> None:
    """Where a quirk says so, a canary decides over CKR_DEVICE_ERROR; elsewhere it is a fault."""
    codes = frozenset({0x30})
    with pytest.raises(TamperedError):
        _climb(codes, canary=lambda: None)
    with pytest.raises(HsmFaultError):
        _climb(codes, canary=_Broken().call)  # type: ignore[arg-type]  # it never returns
    with pytest.raises(HsmFaultError):
        _climb(codes, canary=None)
    with pytest.raises(HsmFaultError):
        _climb(frozenset(), canary=lambda: None)
