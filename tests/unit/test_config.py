"""Configuration of the server: everything is checked, nothing is guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from strongroom_server.config import Config, load_config
from strongroom_server.domain.limits import LimitName
from strongroom_server.errors import StartRefusedError

ROOT = Path(__file__).resolve().parents[2]

GOOD = """
[tls]
certificate_file = "tls/server.pem"
private_key_file = "/etc/strongroom/server.key"
client_ca_file = "tls/ca.pem"

[[shards]]
region = "eu-1"
module = "/usr/lib/pkcs11.so"
token_label = "eu-1"
pin_file = "pin"
store = "eu-1/store.sqlite3"
spool = "eu-1/spool"
"""
SHARD = GOOD[GOOD.index("[[shards]]") :]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    """Whatever the machine's environment says is no part of these tests."""
    import os  # noqa: PLC0415 - only here

    for name in list(os.environ):
        if name.upper().startswith("STRONGROOM_"):
            monkeypatch.delenv(name)


@pytest.fixture
def load(tmp_path):
    """Return a function that loads a text as configuration."""

    def load(text: str) -> Config:
        path = tmp_path / "server.toml"
        path.write_text(text)
        return load_config(path)

    return load


def refusal(load, text: str) -> str:
    """Return the message with which a text is refused."""
    with pytest.raises(StartRefusedError) as refused:
        load(text)
    return str(refused.value)


def test_defaults_are_safe(load):
    """What is not said is loopback, no reflection, verification on, nobody privileged."""
    config = load(GOOD)
    assert config.server.listen == "127.0.0.1:7443"
    assert config.ops.listen == "127.0.0.1:9464"
    assert not config.server.reflection
    assert config.shards[0].verify_after_encrypt
    assert config.shards[0].default_storage == "resident"
    access = config.access
    assert access.administrators == access.key_creators == access.audit_consumers == ()


def test_paths_are_relative_to_the_file(load, tmp_path):
    """Relative paths start at the file's directory, absolute ones stay."""
    config = load(GOOD)
    assert config.tls.certificate_file == tmp_path / "tls" / "server.pem"
    assert config.tls.private_key_file == Path("/etc/strongroom/server.key")
    shard = config.shards[0]
    assert shard.module == Path("/usr/lib/pkcs11.so")
    assert (shard.pin_file, shard.store, shard.spool) == (
        tmp_path / "pin",
        tmp_path / "eu-1" / "store.sqlite3",
        tmp_path / "eu-1" / "spool",
    )


def test_storage_is_configured_per_shard(load):
    """A shard says where new keys are kept, what is cached, and what its module is told."""
    nss = "configdir='sql:/var/lib/nss' flags=noModDB"
    addition = (
        'default_storage = "wrapped"\nkey_cache_keys = 100\nunwrapped_keys = 16\n'
        f'recycle_after_unwraps = 0\nmodule_parameters = "{nss}"\n'
    )
    shard = load(GOOD + addition).shards[0]
    assert (shard.default_storage, shard.key_cache_keys, shard.unwrapped_keys) == (
        "wrapped",
        100,
        16,
    )
    assert (shard.recycle_after_unwraps, shard.module_parameters) == (0, nss)


def test_the_configuration_cannot_be_changed(load):
    """It is frozen, all the way down."""
    config = load(GOOD)
    with pytest.raises(ValueError, match="frozen"):
        config.shards[0].region = "us-1"
    with pytest.raises(ValueError, match="frozen"):
        config.server = config.server


@pytest.mark.parametrize(
    ("addition", "message"),
    [
        ("[server]\nlisen = 'x:1'", "server.lisen"),
        ("[unknown]\nx = 1", "unknown"),
        ("[server]\nlisten = '127.0.0.1'", "host:port"),
        ("[server]\nlisten = ':7443'", "host:port"),
        ("[server]\nlisten = 'x:65536'", "host:port"),
        ("[server]\nlisten = 'x:٣'", "host:port"),
        ("[server]\nlisten = 'x:-1'", "host:port"),
        ("[server]\nreflection = 'maybe'", "server.reflection"),
        ("[server]\ndefault_deadline_seconds = 0", "greater than 0"),
        ("[server]\ndefault_deadline_seconds = 61", "less than or equal to 60"),
        ("[server]\ndefault_deadline_seconds = nan", "server.default_deadline_seconds"),
        ("[server]\ndrain_seconds = inf", "server.drain_seconds"),
        ("[server]\nmax_concurrent_calls = 0", "server.max_concurrent_calls"),
        ("[server]\nmax_connection_age_seconds = 9", "server.max_connection_age_seconds"),
        ("[access]\nadministrators = ['root']", "spiffe://"),
        (
            "[access]\nadministrators = ['spiffe://example.org/a', 'spiffe://example.org']",
            "access.administrators.1",
        ),
        ("[access]\nkey_creators = ['spiffe://example.org/*']", "spiffe://"),
        ("[log]\nlevel = 'trace'", "log.level"),
        ('[log]\nlevel = "info\\n"', "log.level"),
    ],
)
def test_mistakes_are_named(load, addition, message):
    """Unknown keys and values out of range refuse the start, and the message says where."""
    assert message in refusal(load, f"{addition}\n{GOOD}")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('region = "eu-1"', 'region = "EU-1"', "shards.0.region"),
        ('region = "eu-1"', 'region = "eu-1\\n"', "shards.0.region"),
        ('region = "eu-1"', f'region = "{"e" * 33}"', "shards.0.region"),
        ('region = "eu-1"', "", "shards.0.region: Field required"),
        ('token_label = "eu-1"', 'token_label = ""', "shards.0.token_label"),
        ('token_label = "eu-1"', f'token_label = "{"x" * 33}"', "shards.0.token_label"),
        ('pin_file = "pin"', 'pin = "1234"', "shards.0.pin"),
        ('pin_file = "pin"', 'pin_file = "pin"\nsessions = 0', "shards.0.sessions"),
        ('pin_file = "pin"', 'pin_file = "pin"\nsessions = 65', "shards.0.sessions"),
        ('pin_file = "pin"', 'pin_file = "pin"\nspool_limit_bytes = 1', "spool_limit_bytes"),
        ('pin_file = "pin"', 'pin_file = "pin"\ndefault_storage = "both"', "default_storage"),
        ('pin_file = "pin"', 'pin_file = "pin"\nkey_cache_keys = 99', "key_cache_keys"),
        ('pin_file = "pin"', 'pin_file = "pin"\nunwrapped_keys = 15', "unwrapped_keys"),
        ('pin_file = "pin"', 'pin_file = "pin"\nunwrapped_keys = 100001', "unwrapped_keys"),
        ('pin_file = "pin"', 'pin_file = "pin"\nrecycle_after_unwraps = -1', "recycle_after"),
        ('pin_file = "pin"', 'pin_file = "pin"\nmodule_parameters = "a\\n"', "module_parameters"),
        ("[tls]", "[tsl]", "tls: Field required"),
        (SHARD, "", "shards: Field required"),
        (SHARD, "shards = []", "shards"),
    ],
)
def test_what_a_shard_needs_is_checked(load, old, new, message):
    """Regions, labels, sizes and missing parts are refused by name."""
    text = GOOD.replace(old, new)
    assert text != GOOD
    assert message in refusal(load, text)


def test_all_mistakes_are_told_together_and_no_value_is(load):
    """One start shows every mistake; what was written in the wrong place is not repeated."""
    message = refusal(
        load, "[server]\npin = 'marker-1234'\nlisten = 'x'\n[log]\nlevel = 'x'\n" + GOOD
    )
    for place in ("server.pin", "server.listen", "log.level"):
        assert place in message
    assert "marker" not in message


@pytest.mark.parametrize("shared", ["region", "store", "spool", "token"])
def test_shards_share_nothing(load, shared):
    """Two shards of one region, in one store, one spool or on one token refuse the start."""
    other = SHARD.replace("eu-1", "us-1")
    assert [shard.region for shard in load(GOOD + other).shards] == ["eu-1", "us-1"]
    line = next(line for line in SHARD.splitlines() if line.startswith(shared))
    same = "\n".join(line if text.startswith(shared) else text for text in other.splitlines())
    assert f"a {shared} is listed twice" in refusal(load, GOOD + same)


def test_the_environment_wins_over_the_file(load, monkeypatch):
    """A variable sets what it names; lists are JSON; the rest stays as in the file."""
    monkeypatch.setenv("STRONGROOM_SERVER__LISTEN", "0.0.0.0:1")
    monkeypatch.setenv("STRONGROOM_ACCESS__ADMINISTRATORS", '["spiffe://example.org/a"]')
    config = load("[server]\nlisten = '127.0.0.1:2'\ndrain_seconds = 3\n" + GOOD)
    assert (config.server.listen, config.server.drain_seconds) == ("0.0.0.0:1", 3)
    assert config.access.administrators == ("spiffe://example.org/a",)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("STRONGROOM_SERVER__LISTN", "x:1", "server.listn"),
        ("STRONGROOM_SERVRE__LISTEN", "x:1", "no section [servre]"),
        ("strongroom_servre__listen", "x:1", "no section [servre]"),
        ("STRONGROOM_SERVER__LISTEN", "x", "host:port"),
        ("STRONGROOM_ACCESS__ADMINISTRATORS", '["root"]', "access.administrators"),
        ("STRONGROOM_ACCESS__ADMINISTRATORS", "not json", ""),
        ("STRONGROOM_SHARDS", "[]", "shards"),
    ],
)
def test_mistakes_in_the_environment_refuse_the_start(load, monkeypatch, name, value, message):
    """A misspelt variable is not passed over, and a bad value is not taken."""
    monkeypatch.setenv(name, value)
    assert message in refusal(load, GOOD)


def test_variables_of_others_are_left_alone(load, monkeypatch):
    """The audit log's variables and plain names are no business of the server."""
    monkeypatch.setenv("STRONGROOM_AUDITLOG_SERVER__LISTEN", "x:1")
    monkeypatch.setenv("STRONGROOM_VECTORS", "/somewhere")
    assert load(GOOD).server.listen == "127.0.0.1:7443"


def test_files_that_cannot_be_read_refuse_the_start(load, tmp_path):
    """No file, a directory, other text, other bytes and an unreadable file have a message."""
    for path in (tmp_path / "missing.toml", tmp_path):
        with pytest.raises(StartRefusedError, match="no such configuration file"):
            load_config(path)
    assert "server.toml" in refusal(load, "[server\n")
    assert "server.toml" in refusal(load, GOOD + GOOD)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(StartRefusedError, match=r"binary\.toml"):
        load_config(binary)
    unreadable = Path("/proc/self/mem")  # a file whose first byte nobody can read
    if unreadable.is_file():
        with pytest.raises(StartRefusedError, match="/proc/self/mem"):
            load_config(unreadable)


@pytest.mark.parametrize("path", sorted(ROOT.glob("deploy/config/server*.toml")), ids=str)
def test_the_example_is_a_good_configuration(path):
    """What is shipped as an example loads as it is."""
    assert load_config(path).shards


LIMITS = """
[limits]
data = ["100/second", "1_000/day"]

[[limits.principals]]
principal = "spiffe://example.org/orders"
data = []
create = ["2/hour"]
"""


def test_limits_are_rates(load):
    """Each limit is a list of rates; a principal of its own takes the rest from all."""
    limits = load(LIMITS + GOOD).limits
    assert limits.data == ("100/second", "1_000/day")
    assert limits.principals[0].data == ()
    book = limits.compile()
    orders = book._overrides["spiffe://example.org/orders"]
    assert orders[LimitName.DATA] == ()
    assert [rate.text for rate in orders[LimitName.CREATE]] == ["2/hour"]
    assert orders[LimitName.CONTROL] == book._defaults[LimitName.CONTROL]
    assert [rate.count for rate in book._defaults[LimitName.DATA]] == [100, 1000]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('data = ["fast"]', "limits.data.0"),
        ('data = "1/second"', "limits.data"),
        ('uses = ["1/second"]', "limits.uses"),
        (LIMITS.partition("]\n\n")[2] * 2, "listed twice"),
        ('principals = [{principal = "orders"}]', "limits.principals.0.principal"),
    ],
)
def test_a_mistake_in_the_limits_refuses_the_start(load, line, told):
    """No limit is guessed."""
    head = "" if line.startswith("[[") else "[limits]\n"
    assert told in refusal(load, f"{head}{line}\n{GOOD}")
