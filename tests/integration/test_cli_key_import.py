"""`strongroom keys import`: material from a file, and as OpenSSL's command line wraps it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.support.cli import Cli, running_deployment

from strongroom import encryption_context as contexts
from strongroom_client import KmsClient, load_options

pytestmark = [pytest.mark.integration, pytest.mark.hsm, pytest.mark.timeout(300)]
HEADER_BYTES = 22  # docs/formats/ciphertext-blob-v1.md
MATERIAL = bytes(range(32))


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """Run one region for this module."""
    with running_deployment(tmp_path_factory.mktemp("import") / "dev", "eu-1") as (made, _):
        yield made


def _new_key(cli: Cli, *options: str) -> str:
    made = cli("keys", "create", "--origin", "external", *options, "-o", "json").json
    assert made["state"] == "PENDING_IMPORT"
    return str(made["name"])


def _file(path: Path, content: bytes, mode: int = 0o600) -> str:
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def _prove(cli: Cli, name: str, material: bytes) -> None:
    """Open a ciphertext of the service with the material alone."""
    with KmsClient(load_options(cli.config("orders"))) as client:
        blob = client.encrypt(name, b"hello", encryption_context={"a": "b"}).ciphertext
    aad = blob[:HEADER_BYTES] + contexts.encode({"a": "b"})
    sealed = blob[HEADER_BYTES:]
    assert AESGCM(material).decrypt(sealed[:12], sealed[12:], aad) == b"hello"


@pytest.mark.parametrize("storage", ["resident", "wrapped"])
def test_material_from_a_file(cli: Cli, tmp_path: Path, storage: str) -> None:
    """What lies in a file of mode 0600 becomes the key; it is destroyed, and comes back."""
    name = _new_key(cli, "--storage", storage)
    file = _file(tmp_path / "material", MATERIAL)
    made = cli("keys", "import", name, "--material-file", file, "--valid-days", "30", "-o", "json")
    assert made.json["state"] == "ENABLED"
    assert made.json["origin"] == "EXTERNAL"
    assert made.json["material_expire_time"] > made.json["import_time"]
    assert MATERIAL.hex().encode() not in made.stdout
    _prove(cli, name, MATERIAL)
    gone = cli("keys", "delete-material", name, "--yes", "-o", "json").json
    assert gone["state"] == "PENDING_IMPORT"
    listed = cli("keys", "list", "--state", "pending-import", "-o", "json").json
    assert name in [row["name"] for row in listed]
    other = _file(tmp_path / "other", bytes(32))
    refused = cli("keys", "import", name, "--material-file", other, "-o", "json", code=6)
    assert refused.error["reason"] == "KEY_MATERIAL_MISMATCH"
    cli("keys", "import", name, "--material-file", file)
    _prove(cli, name, MATERIAL)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_a_file_that_others_may_open_is_refused(cli: Cli, tmp_path: Path, mode: int) -> None:
    """Material in a file of another mode is not sent, and nothing is asked of the service."""
    file = _file(tmp_path / "material", MATERIAL, mode)
    refused = cli("keys", "import", "any", "--material-file", file, code=2)
    assert "chmod 0600" in refused.stderr


def test_material_of_another_length_is_refused(cli: Cli, tmp_path: Path) -> None:
    """31 bytes are no AES-256 key, hexadecimal digits neither; the key goes on waiting."""
    name = _new_key(cli)
    for content in (MATERIAL[:31], MATERIAL.hex().encode()):
        file = _file(tmp_path / "material", content)
        refused = cli("keys", "import", name, "--material-file", file, code=2)
        assert "must have 32 bytes" in refused.stderr
    assert cli("keys", "show", name, "-o", "json").json["state"] == "PENDING_IMPORT"


def test_options_that_do_not_go_together(cli: Cli, tmp_path: Path) -> None:
    """Exactly one of material and wrapped material, and a token with the latter alone."""
    file = _file(tmp_path / "f", MATERIAL)
    for options in (
        (),
        ("--material-file", file, "--wrapped-file", file),
        ("--wrapped-file", file),
        ("--material-file", file, "--token-file", file),
    ):
        cli("keys", "import", "any", *options, code=2)


@pytest.mark.parametrize("storage", ["resident", "wrapped"])
def test_openssl_wraps_with_an_aes_key_between(cli: Cli, tmp_path: Path, storage: str) -> None:
    """OAEP by `openssl pkeyutl`, AES key wrap by `openssl enc`: the material comes in."""
    name = _new_key(cli, "--storage", storage)
    public, token = tmp_path / "public.pem", tmp_path / "token"
    fields = cli(
        *("keys", "import-parameters", name, "-o", "json"),
        *("--public-key-file", str(public), "--token-file", str(token)),
        *("--wrapping-algorithm", "rsa_aes_kw_sha_1"),
    ).json
    assert fields["wrapping_algorithm"] == "RSA_AES_KW_SHA_1"
    assert fields["material_bytes"] == len(MATERIAL)
    assert token.stat().st_mode & 0o777 == 0o600
    material = os.urandom(32)
    between = os.urandom(32)
    _file(tmp_path / "material", material)
    _file(tmp_path / "between", between)
    _oaep(tmp_path, "between", "first")
    _openssl(
        tmp_path,
        *("enc", "-id-aes256-wrap", "-K", between.hex(), "-iv", "A6A6A6A6A6A6A6A6"),
        *("-in", "material", "-out", "second"),
    )
    wrapped = (tmp_path / "first").read_bytes() + (tmp_path / "second").read_bytes()
    file = _file(tmp_path / "wrapped", wrapped)
    options = ("--wrapped-file", file, "--token-file", str(token))
    assert cli("keys", "import", name, *options, "-o", "json").json["state"] == "ENABLED"
    _prove(cli, name, material)
    refused = cli("keys", "import", name, *options, "-o", "json", code=5)
    assert refused.error["reason"] == "IMPORT_TOKEN_USED"


def test_openssl_wraps_directly(cli: Cli, tmp_path: Path) -> None:
    """The material itself under OAEP comes in as well."""
    name = _new_key(cli)
    public, token = tmp_path / "public.pem", tmp_path / "token"
    cli(
        *("keys", "import-parameters", name),
        *("--public-key-file", str(public), "--token-file", str(token)),
        *("--wrapping-algorithm", "RSAES_OAEP_SHA_1"),
    )
    material = os.urandom(32)
    _file(tmp_path / "material", material)
    _oaep(tmp_path, "material", "wrapped")
    file = str(tmp_path / "wrapped")
    cli("keys", "import", name, "--wrapped-file", file, "--token-file", str(token))
    _prove(cli, name, material)


def _oaep(directory: Path, source: str, target: str) -> None:
    _openssl(
        directory,
        *("pkeyutl", "-encrypt", "-pubin", "-inkey", "public.pem", "-in", source, "-out", target),
        *("-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha1"),
        *("-pkeyopt", "rsa_mgf1_md:sha1"),
    )


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(
        ["openssl", *arguments],
        cwd=directory,
        check=True,
        timeout=30,
        capture_output=True,
    )
