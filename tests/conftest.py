"""Deployments for every test that needs one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.deployment import Deployment, running

from strongroom_server.errors import StartRefusedError
from strongroom_server.hsm.softhsm import find_softhsm


@pytest.fixture(scope="session")
def softhsm() -> None:
    """Skip where there is no HSM to run against."""
    try:
        find_softhsm()
    except StartRefusedError as exc:
        pytest.skip(str(exc))


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
