"""Configuration and keys of the audit log: complete, strict, and never overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from strongroom.tlog.errors import CheckpointInvalidError
from strongroom_auditlog import app
from strongroom_auditlog.config import load_config
from strongroom_auditlog.errors import StartRefusedError
from strongroom_auditlog.keys import create_signing_key, load_signer, load_verifier_key

GOOD = """
[log]
directory = "log"
state = "state/log.sqlite3"
origin = "audit.example.org/strongroom"
private_key_file = "keys/log.key"

[tls]
certificate_file = "tls.pem"
private_key_file = "tls.key"
ca_file = "/etc/ca.pem"

[access]
readers = ["spiffe://example.org/auditor"]

[[shards]]
region = "eu-1"
endpoint = "127.0.0.1:7443"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "audit-log.toml"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_file_and_defaults_are_filled_in(tmp_path: Path) -> None:
    """What is not said has the documented default; the verifier key lies beside the key."""
    config = load_config(write(tmp_path, GOOD))
    assert config.log.directory == tmp_path / "log"
    assert config.log.state == tmp_path / "state/log.sqlite3"
    assert config.verifier_key_file == tmp_path / "keys/log.vkey"
    assert config.tls.ca_file == Path("/etc/ca.pem")
    assert config.server.listen == "127.0.0.1:7450"
    assert config.shards[0].server_name is None


def test_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """STRONGROOM_AUDITLOG_… sets a value over the file's."""
    monkeypatch.setenv("STRONGROOM_AUDITLOG_SERVER__LISTEN", "127.0.0.1:1")
    assert load_config(write(tmp_path, GOOD)).server.listen == "127.0.0.1:1"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('origin = "audit', 'origin = "audit log', "log.origin"),
        ('origin = "audit', 'origin = "audit+', "log.origin"),
        ("[tls]", "[tls]\nextra = 1", "tls.extra"),
        ("[access]", "[other]", "other"),
        ("spiffe://example.org/auditor", "auditor", "access.readers.0"),
        ("127.0.0.1:7443", "127.0.0.1", "shards.0.endpoint"),
        ("127.0.0.1:7443", "127.0.0.1:70000", "shards.0.endpoint"),
        ('region = "eu-1"', 'region = "EU"', "shards.0.region"),
        ("[[shards]]", "[[shards]\n", "audit-log.toml"),
        ("[tls]", "[tls]\n[ops]\nlisten = 5", "ops.listen"),
        ('state = "state/log.sqlite3"', 'state = "log/state.sqlite3"', "must not lie"),
        ('state = "state/log.sqlite3"', 'state = "x/../log/s.sqlite3"', "must not lie"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    """Each mistake refuses the start and says where it is."""
    assert old in GOOD
    with pytest.raises(StartRefusedError, match=message):
        load_config(write(tmp_path, GOOD.replace(old, new, 1)))


def test_regions_are_listed_once_and_at_least_once(tmp_path: Path) -> None:
    """A region twice would be ingested twice; none at all is a mistake."""
    shard = GOOD[GOOD.index("[[shards]]") :]
    with pytest.raises(StartRefusedError, match="listed twice"):
        load_config(write(tmp_path, GOOD + shard))
    with pytest.raises(StartRefusedError, match="shards"):
        load_config(write(tmp_path, GOOD.replace(shard, "")))
    with pytest.raises(StartRefusedError, match="no such configuration"):
        load_config(tmp_path / "absent.toml")


def test_initialize_makes_a_log_once(tmp_path: Path) -> None:
    """Key, verifier key, state and a first checkpoint; a second time is refused."""
    config = load_config(write(tmp_path, GOOD))
    key = app.initialize(config)
    assert config.log.private_key_file is not None
    assert load_verifier_key(config.verifier_key_file) == key
    assert config.log.private_key_file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(StartRefusedError, match="holds a log already"):
        app.initialize(config)
    signer = load_signer(origin=config.log.origin, private_key_file=config.log.private_key_file)
    assert signer.verifier_key == key


def test_initialize_takes_a_key_that_is_there(tmp_path: Path) -> None:
    """A key that was made elsewhere is used, if the verifier key beside it is its own."""
    config = load_config(write(tmp_path, GOOD))
    (tmp_path / "keys").mkdir()
    assert config.log.private_key_file is not None
    made = create_signing_key(
        origin=config.log.origin,
        private_key_file=config.log.private_key_file,
        verifier_key_file=tmp_path / "elsewhere.vkey",
    )
    assert app.initialize(config) == made.verifier_key
    assert load_verifier_key(config.verifier_key_file) == made.verifier_key


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    """A signing key is made only where neither of its files is."""
    private, verifier = tmp_path / "log.key", tmp_path / "log.vkey"
    for present in (private, verifier):
        present.write_text("something")
        with pytest.raises(StartRefusedError, match="never overwritten"):
            create_signing_key(
                origin="example.org", private_key_file=private, verifier_key_file=verifier
            )
        assert present.read_text() == "something"
        present.unlink()
    with pytest.raises(StartRefusedError):
        create_signing_key(origin="a b", private_key_file=private, verifier_key_file=verifier)
    assert not private.exists()


def test_unusable_keys_are_refused_without_showing_them(tmp_path: Path) -> None:
    """Missing, readable by others, another algorithm, garbage: named, never quoted."""
    path = tmp_path / "log.key"

    def refused() -> str:
        with pytest.raises(StartRefusedError) as caught:
            load_signer(origin="example.org", private_key_file=path)
        return str(caught.value)

    assert "--init" in refused()
    create_signing_key(
        origin="example.org", private_key_file=path, verifier_key_file=tmp_path / "log.vkey"
    )
    path.chmod(0o640)
    assert "chmod 600" in refused()
    path.chmod(0o600)
    path.write_text("-----BEGIN PRIVATE KEY-----\nMARKER\n-----END PRIVATE KEY-----\n")
    assert "MARKER" not in refused()
    other = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert "not an Ed25519 key" in refused()


def test_a_verifier_key_that_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    """Absent and binary files come out as CheckpointInvalidError."""
    path = tmp_path / "log.vkey"
    for data in (None, b"\xff\xfe", b"text"):
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(CheckpointInvalidError):
            load_verifier_key(path)
