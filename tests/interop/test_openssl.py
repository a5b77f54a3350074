"""OpenSSL's command line takes what the service makes, and the service what OpenSSL makes."""

from __future__ import annotations

import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.cli import Cli, running_deployment

from strongroom_client import Algorithm, KmsClient, load_options

pytestmark = [
    pytest.mark.integration,
    pytest.mark.hsm,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),
]

MESSAGE = b"what is signed\n" * 10
PSS = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"]


@pytest.fixture(scope="module")
def cli(softhsm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """Run one region for this module."""
    del softhsm
    with running_deployment(tmp_path_factory.mktemp("openssl") / "dev", "eu-1") as (made, _):
        yield made


@pytest.fixture
def message(tmp_path: Path) -> Path:
    path = tmp_path / "message"
    path.write_bytes(MESSAGE)
    return path


def openssl(*arguments: object, code: int = 0, stdin: bytes = b"") -> bytes:
    """Run OpenSSL; return what it printed."""
    done = subprocess.run(
        ["openssl", *map(str, arguments)], input=stdin, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == code, done.stderr.decode()
    return done.stdout


def new_key(cli: Cli, spec: str, usage: str) -> str:
    """Make a key; return its name."""
    made = cli("keys", "create", "--spec", spec.lower(), "--usage", usage, "-o", "json").json
    assert (made["spec"], made["usage"]) == (spec, usage)
    return str(made["name"])


def public_key(cli: Cli, key: str, folder: Path) -> Path:
    """Write the public key of a pair as PEM."""
    path = folder / "public.pem"
    cli("public-key", key, "--out", path, "--force")
    assert path.read_bytes() == cli("public-key", key).stdout
    return path


@pytest.mark.parametrize(
    ("spec", "algorithm", "dgst"),
    [
        ("EC_P256", None, ["-sha256"]),
        ("EC_P384", "ecdsa_sha_384", ["-sha384"]),
        ("EC_P521", None, ["-sha512"]),
        ("RSA_2048", "RSASSA_PKCS1_V1_5_SHA_256", ["-sha256"]),
        ("RSA_2048", "RSASSA_PKCS1_V1_5_SHA_512", ["-sha512"]),
        ("RSA_2048", "RSASSA_PSS_SHA_256", ["-sha256", *PSS]),
        ("RSA_3072", "RSASSA_PSS_SHA_384", ["-sha384", *PSS]),
    ],
    ids=str,
)
def test_openssl_verifies_signatures(
    cli: Cli, tmp_path: Path, *, message: Path, spec: str, algorithm: str | None, dgst: list[str]
) -> None:
    """`openssl dgst -verify` takes a signature, of a short file and of one that was hashed here."""
    key = new_key(cli, spec, "SIGN_VERIFY")
    public, signature = public_key(cli, key, tmp_path), tmp_path / "signature"
    chosen = [] if algorithm is None else ["--algorithm", algorithm]
    for data in (MESSAGE, bytes(100_000), b""):
        message.write_bytes(data)
        cli("sign", message, "--key", key, *chosen, "--out", signature, "--force")
        arguments = ["dgst", *dgst, "-verify", public, "-signature", signature]
        assert b"Verified OK" in openssl(*arguments, message)
        told = cli("verify", message, "--key", key, "--signature", signature, *chosen)
        assert f"{key}/versions/1" in told.stdout.decode()
        message.write_bytes(data + b"x")
        openssl(*arguments, message, code=1)
        refused = cli(
            "verify",
            message,
            "--key",
            key,
            "--signature",
            signature,
            *chosen,
            "-o",
            "json",
            code=6,
        )
        assert refused.error["reason"] == "SIGNATURE_INVALID"
        assert refused.stdout == b""


def test_openssl_verifies_ed25519(cli: Cli, tmp_path: Path, message: Path) -> None:
    """`openssl pkeyutl -verify -rawin` takes an Ed25519 signature; a long file is refused."""
    key = new_key(cli, "ED25519", "SIGN_VERIFY")
    public, signature = public_key(cli, key, tmp_path), tmp_path / "signature"
    cli("sign", message, "--key", key, "--out", signature)
    verify = ["pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-sigfile", signature]
    openssl(*verify, "-in", message)
    message.write_bytes(bytes(5000))
    openssl(*verify, "-in", message, code=1)
    cli("sign", message, "--key", key, "--out", tmp_path / "other", code=2)


def test_openssl_encrypts_for_the_hsm(cli: Cli, tmp_path: Path, message: Path) -> None:
    """What `openssl pkeyutl -encrypt` makes with the public key, Decrypt opens."""
    key = new_key(cli, "RSA_2048", "ENCRYPT_DECRYPT")
    public, sealed = public_key(cli, key, tmp_path), tmp_path / "sealed"
    arguments: list[Any] = ["pkeyutl", "-encrypt", "-pubin", "-inkey", public, "-in", message]
    openssl(*arguments, "-pkeyopt", "rsa_padding_mode:oaep", "-out", sealed)
    with KmsClient(load_options(cli.config("orders"))) as client:
        opened = client.decrypt(
            key,
            sealed.read_bytes(),
            encryption_context={},
            algorithm=Algorithm.RSAES_OAEP_SHA_1,  # what OpenSSL takes when nothing is said
        )
    assert opened.plaintext == MESSAGE


def test_openssl_agrees_with_the_hsm(cli: Cli, tmp_path: Path) -> None:
    """`openssl pkeyutl -derive` and `strongroom derive` come to the same secret, mode 0600."""
    key = new_key(cli, "EC_P256", "KEY_AGREEMENT")
    ours, theirs = public_key(cli, key, tmp_path), tmp_path / "private.pem"
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", theirs)
    expected = openssl("pkeyutl", "-derive", "-inkey", theirs, "-peerkey", ours)
    for form in ("PEM", "DER"):
        peer, secret = tmp_path / f"peer.{form}", tmp_path / f"secret.{form}"
        openssl("pkey", "-in", theirs, "-pubout", "-outform", form, "-out", peer)
        cli("derive", "--key", key, "--peer", peer, "--out", secret)
        assert secret.read_bytes() == expected
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    (tmp_path / "no key").write_bytes(b"-----BEGIN nothing")
    cli("derive", "--key", key, "--peer", tmp_path / "no key", code=2)


@pytest.mark.parametrize("spec", ["RSA_3072", "EC_P384", "ED25519"])
def test_openssl_reads_a_data_key_pair(cli: Cli, tmp_path: Path, spec: str) -> None:
    """The private key is PKCS#8 of mode 0600, its public half the one beside it."""
    key = str(cli("keys", "create", "-o", "json").json["name"])
    private, public, wrapped = (tmp_path / name for name in ("private", "public", "wrapped"))
    arguments = ["datakey-pair", "--key", key, "--spec", spec.lower(), "--context", "a=b"]
    cli(*arguments, "--public", public, "--out", wrapped, "--plaintext-file", private)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    read = ["pkey", "-inform", "DER", "-in", private]
    assert openssl(*read, "-pubout") == public.read_bytes()
    assert b"PRIVATE KEY" in openssl(*read)
    with KmsClient(load_options(cli.config("orders"))) as client:
        opened = client.decrypt(key, wrapped.read_bytes(), encryption_context={"a": "b"})
    assert opened.plaintext == private.read_bytes()
    blind = cli.process(*arguments, "--public", public, "--force")
    assert blind.stdout not in {b"", wrapped.read_bytes()}


def test_macs_on_the_command_line(cli: Cli, tmp_path: Path, message: Path) -> None:
    """`verify-mac` takes what `mac` wrote, and ends with 6 for anything else."""
    key = new_key(cli, "HMAC_256", "GENERATE_VERIFY_MAC")
    mac = tmp_path / "mac"
    cli("mac", message, "--key", key, "--out", mac)
    assert len(mac.read_bytes()) == 32
    told = cli("verify-mac", message, "--key", key, "--mac", mac, "-o", "json").json
    assert told == {"verified_by": f"{key}/versions/1", "algorithm": "HMAC_SHA_256"}
    piped = cli.process("verify-mac", "--key", key, "--mac", mac, stdin=MESSAGE)
    assert b"versions/1" in piped.stdout
    mac.write_bytes(bytes(32))
    refused = cli("verify-mac", message, "--key", key, "--mac", mac, "-o", "json", code=6)
    assert refused.error["reason"] == "MAC_INVALID"
    message.write_bytes(bytes(4097))
    cli("mac", message, "--key", key, "--out", tmp_path / "other", code=2)


@pytest.mark.parametrize(
    "arguments",
    [
        ["sign", "--algorithm", "RSASSA_PSS_SHA_1"],
        ["verify", "--signature", "/dev/null"],
        ["verify-mac", "--mac", "/dev/null"],
    ],
)
def test_wrong_arguments_ask_nothing_of_the_service(
    cli: Cli, message: Path, tmp_path: Path, arguments: list[str]
) -> None:
    """An unknown algorithm and an empty signature or MAC are usage errors."""
    command, *options = arguments
    out: list[str | Path] = ["--out", tmp_path / "x"] if command == "sign" else []
    key = "00000000-0000-4000-8000-000000000000"
    cli(command, message, "--key", key, *options, *out, code=2)
