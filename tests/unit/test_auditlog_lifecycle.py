"""Making a log, and making again what was lost of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.support.audit_records import LogHome, batch
from tests.support.softhsm import make_token

from strongroom.tlog.note import CosignerKey, VerifierKey
from strongroom_auditlog import lifecycle
from strongroom_auditlog.config import Config, load_config
from strongroom_auditlog.errors import StartRefusedError
from strongroom_auditlog.log import AuditLog
from strongroom_auditlog.verify import verify_log
from strongroom_auditlog.witness import app as witness_app
from strongroom_auditlog.witness.config import load_witness_config

CONFIG = """
[log]
directory = "log"
state = "state/state.sqlite3"
last_checkpoint = "elsewhere/last.sqlite3"
origin = "audit.example.org/strongroom"
{key}
{log}
[tls]
certificate_file = "tls.pem"
private_key_file = "tls.key"
ca_file = "ca.pem"

[[shards]]
region = "eu-1"
endpoint = "127.0.0.1:7443"
"""
KEY_FILE = 'private_key_file = "keys/log.key"'


def write(root: Path, *, key: str = KEY_FILE, log: str = "", more: str = "") -> Path:
    path = root / "audit-log.toml"
    path.write_text(CONFIG.format(key=key, log=log) + more)
    return path


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Give the configuration of a log of 900 records, and an append that nobody heard of."""
    config = load_config(write(tmp_path))
    lifecycle.initialize(config)
    log = opened(config)
    log.append([batch("eu-1", 5, range(1, 601)), batch("us-1", 3, range(1, 101))])
    log.append([batch("eu-1", 5, range(601, 801))])
    log.close()
    return config


def opened(config: Config) -> AuditLog:
    """Open the log, as the process does, and publish."""
    signer, hsm_key = lifecycle.open_signer(config)
    assert hsm_key is None
    log = AuditLog.open(config.log.directory, config.log.state, config.last_checkpoint_file, signer)
    log.append([])
    return log


def key_of(config: Config) -> VerifierKey:
    return VerifierKey.parse(config.verifier_key_file.read_text())


def test_a_lost_state_is_made_again_and_the_log_goes_on(config: Config) -> None:
    """Positions and index come from the entries, the tree from the last checkpoint."""
    log = opened(config)
    log.extend([batch("eu-1", 5, range(801, 900))])  # taken, and never signed
    log.close()
    shutil.rmtree(config.log.state.parent)
    config.log.state.parent.mkdir()
    assert lifecycle.rebuild_state(config).size == 900
    log = opened(config)
    assert log.checkpoint.size == 900
    assert log.next_position("eu-1") == (5, 801)
    assert log.next_position("us-1") == (3, 101)
    log.append([batch("eu-1", 5, range(801, 850))])
    log.close()
    assert verify_log(config.log.directory, key_of(config)).shards == {
        "eu-1": (5, 849),
        "us-1": (3, 100),
    }


def test_signed_and_not_published_is_in_the_state_that_is_made_again(config: Config) -> None:
    """The last checkpoint counts, not the published one."""
    log = opened(config)
    log.extend([batch("eu-1", 5, range(801, 900))])
    log.sign()
    log.close()
    config.log.state.unlink()
    assert lifecycle.rebuild_state(config).size == 999
    log = opened(config)
    assert log.checkpoint.size == 999
    log.close()


def test_a_state_is_made_again_only_from_the_newest_log(config: Config, tmp_path: Path) -> None:
    """An older log, a damaged one, a state that is there, a missing last checkpoint."""
    older = shutil.copytree(config.log.directory, tmp_path / "older")
    log = opened(config)
    log.append([batch("eu-1", 5, range(801, 900))])
    log.close()
    with pytest.raises(StartRefusedError, match="exists; move it away"):
        lifecycle.rebuild_state(config)
    config.log.state.unlink()
    newest = shutil.copytree(config.log.directory, tmp_path / "newest")
    shutil.rmtree(config.log.directory)
    shutil.copytree(older, config.log.directory)
    with pytest.raises(StartRefusedError, match="restore the newest log"):
        lifecycle.rebuild_state(config)
    shutil.rmtree(config.log.directory)
    shutil.copytree(newest, config.log.directory)
    path = config.log.directory / "tile/entries/000"
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"outcome":"OK"', b'"outcome":"ok"', 1))
    with pytest.raises(StartRefusedError, match="tile/0/000"):
        lifecycle.rebuild_state(config)
    path.write_bytes(good)
    away = config.last_checkpoint_file.rename(tmp_path / "away")
    with pytest.raises(StartRefusedError, match="missing"):
        lifecycle.rebuild_state(config)
    away.rename(config.last_checkpoint_file)
    assert not config.log.state.exists()
    assert lifecycle.rebuild_state(config).size == 999


def test_a_lost_last_checkpoint_is_made_again_on_demand_only(config: Config) -> None:
    """The start refuses; the command verifies log and state in full first."""
    with pytest.raises(StartRefusedError, match="never overwritten"):
        lifecycle.rebuild_last_checkpoint(config)
    config.last_checkpoint_file.unlink()
    with pytest.raises(StartRefusedError, match="--rebuild-last-checkpoint"):
        opened(config)
    path = config.log.directory / "tile/0/001"
    good = path.read_bytes()
    path.write_bytes(bytes(len(good)))
    with pytest.raises(StartRefusedError):
        lifecycle.rebuild_last_checkpoint(config)
    path.write_bytes(good)
    assert lifecycle.rebuild_last_checkpoint(config).size == 900
    opened(config).close()


def test_nothing_is_made_again_under_a_running_log(config: Config) -> None:
    """Both commands want the log for themselves."""
    log = opened(config)
    for command in (lifecycle.rebuild_state, lifecycle.rebuild_last_checkpoint):
        with pytest.raises(StartRefusedError, match="another audit log process"):
            command(config)
    log.close()


@pytest.mark.hsm
def test_a_log_with_its_key_in_a_token(softhsm: None, tmp_path: Path) -> None:
    """`--init` makes the key in the token; no private key is in any file."""
    del softhsm
    token = make_token(tmp_path / "token")
    environment = ", ".join(
        f'{name} = "{value}"' for name, value in token.settings.module_environment.items()
    )
    hsm = f"""
[log.hsm]
module = "{token.settings.module}"
module_environment = {{ {environment} }}
token_label = "{token.settings.token_label}"
pin_file = "{token.settings.pin_file}"
"""
    config = load_config(write(tmp_path, key="", more=hsm))
    key = lifecycle.initialize(config)
    assert config.verifier_key_file == tmp_path / "state/log.vkey"
    assert VerifierKey.parse(config.verifier_key_file.read_text()) == key
    signer, hsm_key = lifecycle.open_signer(config)
    assert hsm_key is not None
    log = AuditLog.open(config.log.directory, config.log.state, config.last_checkpoint_file, signer)
    log.append([batch("eu-1", 5, range(1, 11))])
    log.close()
    hsm_key.close()
    config.log.state.unlink()
    assert lifecycle.rebuild_state(config).size == 10
    assert verify_log(config.log.directory, key).checkpoint.size == 10
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and "token" not in path.parts]
    assert not [path for path in kept if b"PRIVATE KEY" in path.read_bytes()]


WITNESS_KEY = str(CosignerKey("witness.example.org/w1", bytes(range(32))))
WITNESSES = f"""
[[witnesses]]
name = "w1"
url = "https://witness.example.org/w1"
verifier_key = "{WITNESS_KEY}"
"""


@pytest.mark.parametrize(
    ("key", "log", "more", "message"),
    [
        ("", "", "", "exactly one of private_key_file"),
        (
            KEY_FILE,
            "",
            '[log.hsm]\nmodule = "m"\ntoken_label = "t"\npin_file = "p"\n',
            "exactly one of private_key_file",
        ),
        (KEY_FILE, "", '[log.hsm]\nmodule = "m"\npin = "1234"\n', "log.hsm.pin"),
        (KEY_FILE, "", WITNESSES, "witness_quorum: say how many of the 1 witnesses"),
        (KEY_FILE, "witness_quorum = 1", "", "1 witnesses required, of 0"),
        (KEY_FILE, "witness_quorum = 2", WITNESSES, "2 witnesses required, of 1"),
        (KEY_FILE, "witness_quorum = -1", WITNESSES, "log.witness_quorum"),
        (KEY_FILE, "witness_quorum = 1", WITNESSES + WITNESSES, "given twice"),
        (
            KEY_FILE,
            "witness_quorum = 1",
            WITNESSES.replace("https", "ftp"),
            "witnesses.0.url",
        ),
        (
            KEY_FILE,
            "witness_quorum = 1",
            WITNESSES.replace(WITNESS_KEY, str(VerifierKey("w", bytes(32)))),
            "witnesses.0.verifier_key",
        ),
        (KEY_FILE, "witness_interval_seconds = 0", "", "log.witness_interval_seconds"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, key: str, log: str, more: str, message: str) -> None:
    """Each refuses the start and says where it is."""
    with pytest.raises(StartRefusedError, match=message):
        load_config(write(tmp_path, key=key, log=log, more=more))


def test_where_the_last_checkpoint_may_be(tmp_path: Path) -> None:
    """Beside the state by default; never in what is served, and never the state itself."""
    path = write(tmp_path)
    text = path.read_text()
    path.write_text(text.replace('last_checkpoint = "elsewhere/last.sqlite3"\n', ""))
    assert load_config(path).last_checkpoint_file == tmp_path / "state/last-checkpoint.sqlite3"
    for bad, message in (
        ("log/last.sqlite3", "must not lie in log.directory"),
        ("state/../state/state.sqlite3", "must be different files"),
    ):
        path.write_text(text.replace("elsewhere/last.sqlite3", bad))
        with pytest.raises(StartRefusedError, match=message):
            load_config(path)
    good = write(tmp_path, log="witness_quorum = 1", more=WITNESSES)
    assert load_config(good).witnesses[0].name == "w1"


WITNESS = """
[witness]
name = "witness.example.org/w1"
private_key_file = "keys/witness.key"
state = "witness.sqlite3"

[[logs]]
verifier_key = "{key}"
"""


def test_a_witness_is_made_once(tmp_path: Path) -> None:
    """Key, verifier key of type 0x04 and state; a second time is refused, a key is kept."""
    home = LogHome.create(tmp_path / "log")
    path = tmp_path / "witness.toml"
    path.write_text(WITNESS.format(key=home.key))
    config = load_witness_config(path)
    key = witness_app.initialize(config)
    assert CosignerKey.parse((tmp_path / "keys/witness.vkey").read_text()) == key
    assert config.witness.private_key_file.stat().st_mode & 0o777 == 0o600
    assert config.keys_by_origin == {home.key.name: (home.key,)}
    with pytest.raises(StartRefusedError, match="never overwritten"):
        witness_app.initialize(config)
    config.witness.state.unlink()
    assert witness_app.initialize(config) == key


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("witness.example.org/w1", "witness one", "witness.name"),
        ("[[logs]]", "[[log]]", "logs"),
        ("[witness]", "[witness]\nextra = 1", "witness.extra"),
        ("[[logs]]", '[server]\ncertificate_file = "x"\n[[logs]]', "both or neither"),
        ("[[logs]]\nverifier_key =", "[[logs]]\nverifier_key = 'x'\nother =", "verifier_key"),
    ],
)
def test_mistakes_of_a_witness_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    """Each refuses the start and says where it is."""
    path = tmp_path / "witness.toml"
    text = WITNESS.format(key=VerifierKey("example.org/log", bytes(32)))
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(StartRefusedError, match=message):
        load_witness_config(path)
    path.write_text(text + text[text.index("[[logs]]") :])
    with pytest.raises(StartRefusedError, match="listed twice"):
        load_witness_config(path)
