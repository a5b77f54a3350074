"""The client's options: frozen, checked, and refused with the name of what is wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from strongroom_client import ClientOptions, Endpoint, OptionsError, TlsFiles, load_options

GOOD = """
[tls]
certificate_file = "client.pem"
private_key_file = "/keys/client.key"
ca_file = "ca/ca.pem"
[endpoints]
eu-1 = "127.0.0.1:7443"
us-1 = "[::1]:7444"
"""
MORE = """
[audit_log]
endpoint = "127.0.0.1:7450"
[defaults]
region = "us-1"
timeout_seconds = 2
max_attempts = 3
"""


def _load(tmp_path: Path, text: str) -> ClientOptions:
    path = tmp_path / "client.toml"
    path.write_text(text)
    return load_options(path)


def test_a_file_is_loaded(tmp_path: Path) -> None:
    """Relative paths are relative to the file, and what is not said has its default."""
    options = _load(tmp_path, GOOD)
    assert options.tls == TlsFiles(
        tmp_path / "client.pem", Path("/keys/client.key"), tmp_path / "ca" / "ca.pem"
    )
    assert options.endpoints == (
        Endpoint("eu-1", "127.0.0.1:7443"),
        Endpoint("us-1", "[::1]:7444"),
    )
    assert options.regions == ("eu-1", "us-1")
    assert (options.timeout_seconds, options.max_attempts) == (20.0, 100)
    assert options.audit_log_endpoint is None


def test_everything_can_be_said(tmp_path: Path) -> None:
    """The optional tables are read, and the default region comes first."""
    options = _load(tmp_path, GOOD + MORE)
    assert options.regions == ("us-1", "eu-1")
    assert (options.timeout_seconds, options.max_attempts) == (2.0, 3)
    assert options.audit_log_endpoint == "127.0.0.1:7450"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[tls", "client.toml"),
        ("", "tls"),
        (GOOD + "[extra]\n", "extra"),
        (GOOD.replace("[tls]", "[tls]\nverify = false"), r"tls\.verify"),
        (GOOD.replace("ca_file", "ca_fil"), r"tls\.ca_fil"),
        (GOOD.replace('"client.pem"', "7"), r"tls\.certificate_file"),
        (GOOD.split("[endpoints]", maxsplit=1)[0], "endpoints"),
        (GOOD.split("eu-1", maxsplit=1)[0], "endpoints"),
        (GOOD.replace("127.0.0.1:7443", "127.0.0.1"), "eu-1"),
        (GOOD.replace("7443", "74430"), "eu-1"),
        (GOOD.replace("7443", "0"), "eu-1"),
        (GOOD.replace("127.0.0.1:7443", "unix:/x"), "eu-1"),
        (GOOD.replace("eu-1", "EU"), "EU"),
        (GOOD + MORE.replace('"us-1"', '"mars-1"'), "mars-1"),
        (GOOD + MORE.replace("timeout_seconds = 2", "timeout_seconds = 0"), "timeout_seconds"),
        (GOOD + MORE.replace("timeout_seconds = 2", "timeout_seconds = true"), "timeout_seconds"),
        (GOOD + MORE.replace("max_attempts = 3", "max_attempts = 1.5"), "max_attempts"),
        (GOOD + MORE.replace("max_attempts = 3", "max_attempts = 0"), "max_attempts"),
        (GOOD + MORE.replace("max_attempts", "attempts"), r"defaults\.attempts"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, named: str) -> None:
    """What is missing, unknown or senseless is OptionsError with its name and the file's."""
    with pytest.raises(OptionsError, match=named) as refused:
        _load(tmp_path, text)
    assert "client.toml" in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A file that is not there, or is not text, is OptionsError."""
    with pytest.raises(OptionsError, match=r"missing\.toml"):
        load_options(tmp_path / "missing.toml")
    (tmp_path / "client.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(OptionsError, match=r"client\.toml"):
        load_options(tmp_path / "client.toml")


def test_options_are_frozen(tmp_path: Path) -> None:
    """Nothing can be changed after the checks, and a region is listed once."""
    options = _load(tmp_path, GOOD)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.region = "eu-1"  # type: ignore[misc] # that is the point
    with pytest.raises(OptionsError, match="twice"):
        dataclasses.replace(options, endpoints=options.endpoints * 2)
