"""What deploy/ claims is true: examples parse, alerts know their metrics, the image holds."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from strongroom.audit.v1 import audit_service_pb2
from strongroom.kms.v1 import key_service_pb2
from strongroom_auditlog import config as auditlog_config
from strongroom_auditlog.metrics import Metrics as AuditLogMetrics
from strongroom_auditlog.witness.config import load_witness_config
from strongroom_auditlog.witness.metrics import WitnessProcessMetrics
from strongroom_server import config as server_config
from strongroom_server.ops.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"


def exposed_names() -> set[str]:
    """Return the name of every sample that our three programs expose."""
    server = Metrics(
        regions=["eu-1"],
        services=[
            key_service_pb2.DESCRIPTOR.services_by_name["KeyService"],
            audit_service_pb2.DESCRIPTOR.services_by_name["AuditService"],
        ],
        operations=["Encrypt"],
        version="x",
        start_time=datetime.now(UTC),
    )
    audit_log = AuditLogMetrics(regions=["eu-1"], version="x", witnesses=["w1"])
    witness = WitnessProcessMetrics(origins=["example.org/log"], version="x")
    return {
        sample.name
        for text in (server.exposition(), audit_log.exposition(), witness.exposition())
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\b(?:strongroom|grpc_server)_[a-z_]+\b", text))


def test_every_metric_of_the_alerts_is_exposed() -> None:
    """An alert on a metric that does not exist would never fire."""
    used = names_in(RULES.read_text(encoding="utf-8"))
    assert used
    assert used <= exposed_names()


def test_every_metric_is_documented_and_no_other() -> None:
    """docs/operations.md lists the metrics, all of them, and none that is gone."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    families = {
        re.sub(r"_(bucket|count|sum)$", "", name)
        for name in exposed_names()
        if name.startswith(("strongroom_", "grpc_server_"))
    }
    documented = {
        name
        for name in re.findall(r"^\| `([a-z_]+)` \|", page, re.MULTILINE)
        if name.startswith(("strongroom_", "grpc_server_"))
    }
    assert documented == families


def test_every_alert_has_a_runbook_of_its_name() -> None:
    """HsmDown is explained in docs/runbooks/hsm-down.md, and no page is left over."""
    text = RULES.read_text(encoding="utf-8")
    alerts = re.findall(r"- alert: (\w+)", text)
    pages = [
        "docs/runbooks/" + re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower() + ".md"
        for name in alerts
    ]
    assert re.findall(r"runbook_url: (\S+)", text) == pages
    for name, page in zip(alerts, pages, strict=True):
        assert (ROOT / page).read_text(encoding="utf-8").startswith(f"# {name}\n")
    found = {str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "runbooks").glob("*.md")}
    assert found == set(pages)


def test_promtool_accepts_the_rules_and_their_tests() -> None:
    """The rules parse and fire as their own unit tests say."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    for arguments in (["check", "rules", str(RULES)], ["test", "rules", "rules_test.yml"]):
        done = subprocess.run(
            [promtool, *arguments], cwd=RULES.parent, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_server_example_is_a_configuration() -> None:
    """The example for the server parses, and its paths are its own."""
    config = server_config.load_config(DEPLOY / "config" / "server.example.toml")
    assert [shard.region for shard in config.shards] == ["eu-1"]
    assert config.tls.certificate_file == DEPLOY / "config" / "tls" / "server.pem"


def test_the_audit_log_example_is_a_configuration() -> None:
    """The example for the audit log parses."""
    config = auditlog_config.load_config(DEPLOY / "config" / "audit-log.example.toml")
    assert [shard.region for shard in config.shards] == ["eu-1", "us-1"]


def test_the_witness_example_is_a_configuration() -> None:
    """The example for a witness parses, for the log of the other example."""
    config = load_witness_config(DEPLOY / "config" / "audit-witness.example.toml")
    log = auditlog_config.load_config(DEPLOY / "config" / "audit-log.example.toml")
    assert list(config.keys_by_origin) == [log.log.origin]


def test_the_audit_log_example_with_its_witness_is_a_configuration(tmp_path: Path) -> None:
    """What is commented out in the example parses as well."""
    text = (DEPLOY / "config" / "audit-log.example.toml").read_text(encoding="utf-8")
    text = text.replace("# witness_quorum", "witness_quorum")
    head, tail = text.split("# [[witnesses]]")
    path = tmp_path / "audit-log.toml"
    path.write_text(head + "[[witnesses]]" + tail.replace("\n# ", "\n"))
    assert auditlog_config.load_config(path).log.witness_quorum == 1


def stages() -> dict[str, tuple[str, str]]:
    """Return the Dockerfile's stages by name: what they come from, and their text."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    parts = re.split(r"^FROM (\S+) AS (\S+)$", text, flags=re.MULTILINE)[1:]
    return {name: (base, body) for base, name, body in zip(*[iter(parts)] * 3, strict=True)}


def test_the_image_runs_as_nobody_in_particular() -> None:
    """Every stage that can be run ends as 65532, and the default one is prod."""
    found = stages()
    assert list(found)[-1] == "prod"
    for name in ("base", "dev"):
        users = re.findall(r"^USER (\S+)$", found[name][1], re.MULTILINE)
        assert users[-1] == "65532:65532"
    assert "USER" not in found["prod"][1]


def test_the_production_image_has_no_softhsm() -> None:
    """SoftHSM is in the development image only."""
    found = stages()
    assert "softhsm2" in found["dev"][1]
    assert found["prod"][0] == "base"
    assert "softhsm" not in found["prod"][1] + found["base"][1] + found["build"][1]


def test_the_image_checks_its_health_without_a_shell() -> None:
    """HEALTHCHECK is the health check module, in exec form."""
    base = stages()["base"][1]
    command = re.search(r"^HEALTHCHECK .*CMD (\[.*\])$", base, re.MULTILINE)
    assert command is not None
    assert command[1] == '["python", "-m", "strongroom_server.ops.healthcheck"]'


def test_no_secret_gets_into_the_image() -> None:
    """No PIN or key is built in, and the build context is a list of what is needed."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    instructions = re.findall(r"^(?:ENV|ARG|COPY|ADD) .*$", text, re.MULTILINE)
    assert not [
        line for line in instructions if re.search(r"pin\b|secret|\.key", line, re.IGNORECASE)
    ]
    context = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in context if line and not line.startswith("#")]
    assert rules[0] == "*"
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    for source in " ".join(copied).split():
        assert f"!{source}" in rules


def test_base_images_are_glibc_and_pinned() -> None:
    """Vendors' modules are glibc libraries; a tag says which Debian and Python."""
    bases = [base for base, _ in stages().values() if base not in stages()]
    assert bases
    for base in bases:
        assert re.fullmatch(r"python:3\.\d+-slim-\w+", base)
