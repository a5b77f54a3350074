"""Making development tokens with the real softhsm2-util."""

from __future__ import annotations

from pathlib import Path

import pytest

from strongroom_server.errors import StartRefusedError
from strongroom_server.hsm.softhsm import SoftHsm, find_softhsm, init_token

pytestmark = pytest.mark.hsm


def test_token_is_made(tmp_path: Path) -> None:
    """A token appears, in directories that only the owner can enter."""
    token = init_token(tmp_path / "t", "a label", "1234 and more")
    assert token.label == "a label"
    assert token.environment["SOFTHSM2_CONF"] == str(tmp_path / "t" / "softhsm2.conf")
    for directory in (tmp_path / "t", tmp_path / "t" / "tokens"):
        assert directory.stat().st_mode & 0o777 == 0o700
    assert len(list((tmp_path / "t" / "tokens").iterdir())) == 1


def test_second_token_is_refused(tmp_path: Path) -> None:
    """A directory that has a token keeps it."""
    init_token(tmp_path / "t", "label", "12345678")
    before = sorted(path.name for path in (tmp_path / "t" / "tokens").rglob("*"))
    with pytest.raises(StartRefusedError, match="token already"):
        init_token(tmp_path / "t", "label", "12345678")
    assert sorted(path.name for path in (tmp_path / "t" / "tokens").rglob("*")) == before


def test_failing_util_is_reported(tmp_path: Path) -> None:
    """What softhsm2-util complains of is passed on, without the PIN."""
    installed = find_softhsm()
    broken = SoftHsm(tmp_path / "none.so", installed.util)
    with pytest.raises(StartRefusedError, match="softhsm2-util") as refusal:
        init_token(tmp_path / "t", "label", "secret-pin", softhsm=broken)
    assert "secret-pin" not in str(refusal.value)
