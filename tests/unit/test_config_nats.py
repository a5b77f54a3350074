"""[nats], transports and principals, in the configurations of both sides."""

from __future__ import annotations

from pathlib import Path

import pytest

from strongroom_auditlog import config as audit_log
from strongroom_auditlog.errors import StartRefusedError as LogRefusedError
from strongroom_server import config as server
from strongroom_server.errors import StartRefusedError as ServerRefusedError

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "config"
NATS = '[nats]\nservers = ["nats-1.example.org:4222"]\n'
SHARD = 'transport = "nats"\nprincipal = "spiffe://example.org/strongroom/eu-1"\n'


def server_text(nats: str = NATS, transport: str = "nats") -> str:
    """Return the example of a server, with a transport."""
    text = (DEPLOY / "server.example.toml").read_text(encoding="utf-8")
    return text.replace("[[shards]]\n", f'{nats}\n[[shards]]\ntransport = "{transport}"\n', 1)


def log_text(shard: str = SHARD, nats: str = NATS) -> str:
    """Return the example of an audit log, with `shard` for what it says of its first shard."""
    text = (DEPLOY / "audit-log.example.toml").read_text(encoding="utf-8")
    head, _, rest = text.partition('region = "eu-1"\n')
    other = rest[rest.index("[[shards]]") :]
    head, _, last = head.rpartition("[[shards]]\n")
    return f'{head}{nats}\n[[shards]]\n{last}region = "eu-1"\n{shard}\n{other}'


def load_server(tmp_path: Path, text: str) -> server.Config:
    path = tmp_path / "server.toml"
    path.write_text(text)
    return server.load_config(path)


def load_log(tmp_path: Path, text: str) -> audit_log.Config:
    path = tmp_path / "audit-log.toml"
    path.write_text(text)
    return audit_log.load_config(path)


def test_both_sides_take_their_defaults(tmp_path: Path) -> None:
    """Same stream on both, certificates of [tls] when none are named, direct when not said."""
    of_server = load_server(tmp_path, server_text())
    of_log = load_log(tmp_path, log_text())
    assert of_server.nats is not None
    assert of_log.nats is not None
    assert of_server.nats.model_dump() == of_log.nats.model_dump()
    assert of_server.nats.stream == "STRONGROOM_AUDIT"
    assert of_server.nats.certificate_file is None
    assert [shard.transport for shard in of_log.shards] == ["nats", "direct"]
    assert server.load_config(DEPLOY / "server.example.toml").shards[0].transport == "direct"


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """As all others."""
    files = f'{NATS}certificate_file = "n.pem"\nprivate_key_file = "n.key"\nca_file = "/ca.pem"\n'
    for nats in (
        load_server(tmp_path, server_text(files)).nats,
        load_log(tmp_path, log_text(nats=files)).nats,
    ):
        assert nats is not None
        assert nats.certificate_file == tmp_path / "n.pem"
        assert nats.private_key_file == tmp_path / "n.key"
        assert nats.ca_file == Path("/ca.pem")


@pytest.mark.parametrize(
    ("nats", "message"),
    [
        ("", "needs the section"),
        ("[nats]\nservers = []\n", "nats.servers"),
        ('[nats]\nservers = ["example.org"]\n', "host:port"),
        ('[nats]\nservers = ["example.org:0"]\n', "host:port"),
        (NATS + 'stream = "audit.>"\n', "nats.stream"),
        (NATS + "replicas = 6\n", "nats.replicas"),
        (NATS + "max_bytes = 1\n", "nats.max_bytes"),
        (NATS + 'certificate_file = "n.pem"\n', "belong together"),
        (NATS + 'password = "x"\n', "nats.password"),
    ],
)
def test_mistakes_in_nats_refuse_the_start(tmp_path: Path, nats: str, message: str) -> None:
    """On either side, and the message says where."""
    with pytest.raises(ServerRefusedError, match=message):
        load_server(tmp_path, server_text(nats))
    if "example.org:0" not in nats:  # the audit log takes the name of a free port
        with pytest.raises(LogRefusedError, match=message):
            load_log(tmp_path, log_text(nats=nats))


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        ('transport = "nats"', "who signs"),
        (SHARD + 'endpoint = "h:1"', "not with transport nats"),
        (SHARD + 'server_name = "h"', "not with transport nats"),
        ("", "needs endpoint"),
        ('endpoint = "h:1"\nprincipal = "eu-1"', "spiffe"),
        ('transport = "kafka"', "transport"),
    ],
)
def test_mistakes_in_a_shard_refuse_the_start(tmp_path: Path, shard: str, message: str) -> None:
    """Who signs has to be said, and nothing that would have no effect may be."""
    with pytest.raises(LogRefusedError, match=message):
        load_log(tmp_path, log_text(shard))


def test_somebody_has_to_be_able_to_acknowledge(tmp_path: Path) -> None:
    """Without audit consumers no spool would ever be freed."""
    text = server_text()
    consumers = next(line for line in text.splitlines() if line.startswith("audit_consumers"))
    with pytest.raises(ServerRefusedError, match="audit_consumers"):
        load_server(tmp_path, text.replace(consumers, ""))
