"""G6: whatever is sent to whichever method, the answer has a status and a reason, not INTERNAL."""

from __future__ import annotations

import collections
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.deployment import AUDIT_LOG, Deployment, running
from tests.support.fuzzed_messages import Plausible, broken_bytes, messages
from tests.support.rpc_server import reason_of

from strongroom.audit.v1 import audit_service_pb2
from strongroom.kms.v1 import key_service_pb2
from strongroom_client import DataKeyPairSpec, Key, KeySpec, KeyUsage, KmsClient

pytestmark = [
    pytest.mark.integration,
    pytest.mark.hsm,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("softhsm"),
]

EU = "eu-1"
EXAMPLES = 50 * int(os.environ.get("STRONGROOM_SOAK_FACTOR", "1"))
SECONDS = 20.0
KEYS = key_service_pb2.DESCRIPTOR.services_by_name["KeyService"]
AUDIT = audit_service_pb2.DESCRIPTOR.services_by_name["AuditService"]
METHODS: tuple[MethodDescriptor, ...] = (*KEYS.methods, *AUDIT.methods)
# A change that would leave nothing to fuzz the other methods with gets keys of its own.
DESTRUCTIVE = {
    "DisableKey",
    "ScheduleKeyDeletion",
    "ScheduleKeyVersionDeletion",
    "PutKeyPolicy",
    "DeleteImportedKeyMaterial",
    "UpdateKey",
}
NEVER = {"INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED", "DATA_LOSS", "CANCELLED"}
KINDS = (
    (KeySpec.AES_256, KeyUsage.ENCRYPT_DECRYPT),
    (KeySpec.HMAC_256, KeyUsage.GENERATE_VERIFY_MAC),
    (KeySpec.RSA_2048, KeyUsage.SIGN_VERIFY),
    (KeySpec.RSA_2048, KeyUsage.ENCRYPT_DECRYPT),
    (KeySpec.EC_P256, KeyUsage.SIGN_VERIFY),
    (KeySpec.EC_P256, KeyUsage.KEY_AGREEMENT),
    (KeySpec.ED25519, KeyUsage.SIGN_VERIFY),
)


@dataclass
class Target:
    """A server of one region, with what its keys made, and what it answered."""

    deployment: Deployment
    channels: dict[str, grpc.Channel]
    names: Sequence[str]
    spare: str
    blobs: Sequence[bytes]
    pid: int
    answers: collections.Counter[str] = field(default_factory=collections.Counter)

    def plausible(self, method: str) -> Plausible:
        """Return what gets past the first checks of a method."""

        def texts_of(name: str) -> Sequence[str]:
            if method in {"DeleteAlias", "UpdateAlias"} and name == "name":
                return (f"regions/{EU}/aliases/spare",)
            if name in {"name", "key", "source_key", "destination_key", "resource"}:
                if "Version" in method:
                    return (f"{self.spare}/versions/1", f"{self.spare}/versions/2")
                return (self.spare,) if method in DESTRUCTIVE else self.names
            return {
                "parent": (self.names[0],)
                if method == "ListKeyVersions"
                else (f"regions/{EU}", f"regions/{EU}", "regions/us-1"),
                "region": (EU, f"regions/{EU}", "us-1"),
                "request_id": ("", "", str(uuid.UUID(int=17, version=4))),
                "alias": (f"regions/{EU}/aliases/fuzz",),
                "alias_id": ("fuzz", "service/x"),
                "etag": ("", "", "r1", "r2"),
                "paths": ("description", "name", "*"),
            }.get(name, ())

        return Plausible(texts_of, self.blobs)

    def send(self, method: MethodDescriptor, data: bytes) -> None:
        """Send bytes to a method; fail when the answer is none that callers were promised."""
        service = method.containing_service
        channel: Any = self.channels[service.name]
        path = f"/{service.full_name}/{method.name}"
        try:
            if method.server_streaming:
                stream: Any = channel.unary_stream(path)(data, timeout=SECONDS)
                next(iter(stream))
                stream.cancel()
            else:
                channel.unary_unary(path)(data, timeout=SECONDS)
        except grpc.RpcError as exc:
            failed: Any = exc
            code = failed.code().name
            self.answers[code] += 1
            assert code not in NEVER, f"{method.name}: {failed}"
            if code != "UNIMPLEMENTED":  # declared, and not there yet: gRPC's own
                assert reason_of(failed), f"{method.name}: {failed}"
        else:
            self.answers["OK"] += 1


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Run a server without an audit log, which its records would wait for otherwise."""
    deployment = Deployment.create(tmp_path_factory.mktemp("fuzz") / "dev", (EU,))
    with running(deployment), deployment.client() as client:
        deployment.stop(AUDIT_LOG)
        keys = [client.create_key(EU, spec=spec, usage=usage) for spec, usage in KINDS]
        for alias_id in ("fuzz", "spare"):
            client.create_alias(EU, alias_id=alias_id, key=keys[0].name)
        names = (*(key.name for key in keys), f"regions/{EU}/aliases/fuzz")
        spare = client.create_key(EU).name
        with (
            deployment.channel(EU) as caller,
            deployment.channel(EU, deployment.tls_of("audit-log")) as consumer,
        ):
            yield Target(
                deployment,
                {"KeyService": caller, "AuditService": consumer},
                names,
                spare,
                _blobs(client, keys),
                deployment.pid(f"server-{EU}"),
            )


def _blobs(client: KmsClient, keys: Sequence[Key]) -> Sequence[bytes]:
    """Return what the keys made: ciphertexts, signatures, MACs, public keys."""
    aes, mac, signer, opener, curve, agreer, edwards = (key.name for key in keys)
    pair = client.generate_data_key_pair(aes, DataKeyPairSpec.EC_P256, encryption_context={})
    return (
        b"",
        b"x",
        bytes(32),
        bytes(4096),
        bytes(4097),
        client.encrypt(aes, b"x", encryption_context={}).ciphertext,
        client.generate_mac(mac, b"x").mac,
        client.sign(signer, b"x", algorithm=keys[2].algorithms[0]).signature,
        client.sign(curve, b"x").signature,
        client.sign(edwards, b"x").signature,
        client.get_public_key(agreer).public_key,
        client.get_public_key(opener).public_key,
        pair.public_key,
        pair.wrapped_private_key,
    )


def _fuzz(
    target: Target,
    method: MethodDescriptor,
    strategy: st.SearchStrategy[Any],
    to_bytes: Callable[[Any], bytes],
) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(example: Any) -> None:
        target.send(method, to_bytes(example))

    run()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_no_message_is_an_internal_error(target: Target, method: MethodDescriptor) -> None:
    """Messages of the right type, with fields plausible or not, get a status with a reason."""
    strategy = messages(method.input_type, target.plausible(method.name))
    _fuzz(target, method, strategy, lambda message: bytes(message.SerializeToString()))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_no_bytes_are_an_internal_error(target: Target, method: MethodDescriptor) -> None:
    """Bytes that may be no message at all get a status with a reason."""
    strategy = broken_bytes(method.input_type, target.plausible(method.name))
    _fuzz(target, method, strategy, bytes)


def test_the_server_is_as_before(target: Target, figures: Callable[..., None]) -> None:
    """The same process answers with every key, has logged no fault and lost no worker."""
    figures(answers=[f"{code} {count}" for code, count in target.answers.most_common()])
    assert target.deployment.pid(f"server-{EU}") == target.pid
    text = target.deployment.log_text(f"server-{EU}")
    assert "strongroom.rpc" in text
    assert "internal error" not in text
    assert "Traceback" not in text
    assert "worker lost" not in text
    with target.deployment.client() as client:
        for name in target.names:
            assert client.get_key(name).state == "ENABLED"
    assert target.answers["OK"]
