"""What the SDK promises by name, and what it must not show."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
import typing

import pytest
from google.protobuf.message import Message

import strongroom_client
from strongroom_client import async_client, audit, client, envelope, errors, results

PUBLIC = {
    "strongroom_client",
    "async_client",
    "async_stream",
    "audit",
    "checkpoints",
    "client",
    "data_key_cache",
    "envelope",
    "errors",
    "import_results",
    "options",
    "pair_results",
    "permission_results",
    "receipt_log",
    "results",
    "secret_bytes",
    "stream",
    "testing",
}


def test_every_exported_name_is_there() -> None:
    """`__all__` of every module is complete, sorted by ruff, and free of underscores."""
    for info in pkgutil.iter_modules(strongroom_client.__path__, "strongroom_client."):
        module = importlib.import_module(info.name)
        assert module.__all__, info.name
        for name in module.__all__:
            assert hasattr(module, name), f"{info.name}.{name}"
            assert not name.startswith("_")


def test_public_modules_are_a_list() -> None:
    """Modules without an underscore are exactly the documented ones."""
    names = {info.name for info in pkgutil.iter_modules(strongroom_client.__path__)}
    assert {name for name in names if not name.startswith("_")} | {"strongroom_client"} == PUBLIC


def test_every_error_is_exported() -> None:
    """Every public error class can be imported from the package itself."""
    for name in errors.__all__:
        if name != "error_for_reason":
            assert getattr(strongroom_client, name) is getattr(errors, name)


def test_every_error_has_its_own_reason() -> None:
    """No two classes of errors share a reason."""
    kinds = [
        getattr(errors, name)
        for name in errors.__all__
        if isinstance(getattr(errors, name), type) and name != "FieldViolation"
    ]
    assert len({kind.reason for kind in kinds}) == len(kinds)


def test_both_clients_have_the_same_methods() -> None:
    """The asyncio clients offer what the sync ones do, with the same parameters."""
    for sync, asynchronous in (
        (client.KmsClient, async_client.AsyncKmsClient),
        (audit.AuditClient, audit.AsyncAuditClient),
        (envelope.EnvelopeClient, envelope.AsyncEnvelopeClient),
    ):
        for name, method in inspect.getmembers(sync, inspect.isfunction):
            if name.startswith("_"):
                continue
            twin = getattr(asynchronous, name)
            assert inspect.signature(method).parameters == inspect.signature(twin).parameters


def test_no_protobuf_is_in_a_result() -> None:
    """No field of a result is a protobuf message."""
    for name in results.__all__:
        kind = getattr(results, name)
        for field in typing.get_type_hints(kind).values():
            assert not (isinstance(field, type) and issubclass(field, Message))


@pytest.mark.parametrize("forbidden", ["pytest", "hypothesis", "strongroom_server", "pydantic"])
def test_the_sdk_imports_only_what_it_says(forbidden: str) -> None:
    """Importing the SDK, its fake included, brings in no test tool and no server."""
    code = (
        "import sys, strongroom_client, strongroom_client.testing, strongroom_client.stream, "
        f"strongroom_client.async_stream; sys.exit({forbidden!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
