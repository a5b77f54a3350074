"""Deployments and tokens for every test that needs one, and the figures they measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.deployment import Deployment, running
from tests.support.pkcs11_shim import Shim, build_shim
from tests.support.softhsm import TestToken, make_token

from strongroom_server.errors import StartRefusedError
from strongroom_server.hsm.softhsm import find_softhsm


@pytest.fixture(scope="session")
def softhsm() -> None:
    """Skip where there is no HSM to run against."""
    try:
        find_softhsm()
    except StartRefusedError as exc:
        pytest.skip(str(exc))


@pytest.fixture
def token(softhsm: None, tmp_path: Path) -> TestToken:
    """Give a fresh token."""
    del softhsm
    return make_token(tmp_path / "hsm")


@pytest.fixture(scope="session")
def shim_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the compiled shim."""
    module = build_shim(tmp_path_factory.mktemp("shim"))
    if module is None:
        pytest.skip("no C compiler: install gcc to run the fault injection tests")
    return module


@pytest.fixture
def shim(shim_module: Path, token: TestToken, tmp_path: Path) -> Shim:
    """Give a shim in front of SoftHSM, without faults yet."""
    directory = tmp_path / "faults"
    directory.mkdir()
    return Shim(shim_module, directory, token.settings.module)


@pytest.fixture(scope="session")
def shared_deployment(
    softhsm: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """Run one deployment for all tests that leave its processes alone."""
    del softhsm
    directory = tmp_path_factory.mktemp("shared") / "dev"
    with running(Deployment.create(directory)) as deployment:
        yield deployment


@pytest.fixture
def new_deployment(softhsm: None, tmp_path: Path) -> Deployment:
    """Make a deployment that does not run yet."""
    del softhsm
    return Deployment.create(tmp_path / "dev")


@pytest.fixture
def deployment(new_deployment: Deployment) -> Iterator[Deployment]:
    """Run a deployment of the test's own, for tests that do harm to it."""
    with running(new_deployment) as deployment:
        yield deployment


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Take what a test measured; it is shown at the end of the run, and in junit's XML."""

    def take(**values: object) -> None:
        for name, value in values.items():
            record_property(name, value)

    return take


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the figures."""
    measured = [
        (report.nodeid, report.user_properties)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call" and report.user_properties
    ]
    if measured:
        terminalreporter.section("figures")
    for nodeid, properties in sorted(measured):
        terminalreporter.write_line(nodeid)
        for name, value in properties:
            terminalreporter.write_line(f"    {name}: {_shown(value)}")


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
