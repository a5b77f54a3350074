"""Keys go through their lives as the reference model says, whatever the wall clock does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from tests.support.lifecycle_model import ModelKey
from tests.support.memory_service import MemoryService, caller
from tests.support.virtual_clock import VirtualClock

from strongroom.resource_names import KeyName, KeyVersionName
from strongroom_server.domain.keys import KeyState, KeyStorage, VersionState
from strongroom_server.errors import StrongroomError
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.destruction import KeyDestruction

T = TypeVar("T")
PLAIN = ChangeRequest()
STATES = {
    KeyState.ENABLED: "ENABLED",
    KeyState.DISABLED: "DISABLED",
    KeyState.PENDING_DELETION: "PENDING",
    KeyState.DESTROYED: "DESTROYED",
}
VERSION_STATES = {
    VersionState.ENABLED: "on",
    VersionState.PENDING_DELETION: "going",
    VersionState.DESTROYED: "gone",
}


class _Observer:
    """Hears of the destructions; a fault of the program is a failure of the test."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.problems: list[StrongroomError] = []

    def destroyed(self, name: str, versions: int) -> None:
        assert versions >= 1
        self.names.append(name)

    def waits(self, name: str, problem: StrongroomError) -> None:
        del name
        self.problems.append(problem)

    def failed(self, fault: Exception) -> None:
        raise fault


class LifecycleMachine(RuleBasedStateMachine):
    """The services and the destruction over ports in memory, beside the model."""

    names: Bundle[KeyName] = Bundle("names")
    steps = 0
    destructions = 0

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = VirtualClock()
        self.service = MemoryService("eu-1", clock=self.clock)
        self.deletion = self.service.management.deletion
        self.observer = _Observer()
        shard = self.service.topology.shard("eu-1")
        self.destruction = KeyDestruction(shard, self.service.recorder, self.clock, self.observer)
        self.model: dict[KeyName, ModelKey] = {}
        self.blobs: dict[tuple[KeyName, int], bytes] = {}
        self.elapsed = 0.0

    def run_it(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def outcome(self, work: Coroutine[Any, Any, object]) -> str:
        type(self).steps += 1
        try:
            self.run_it(work)
        except StrongroomError as error:
            return error.reason
        return "OK"

    async def _with_caller(self, make: Any) -> object:
        return await make(caller())

    def ask(self, make: Any) -> str:
        return self.outcome(self._with_caller(make))

    @rule(target=names, storage=st.sampled_from(KeyStorage))
    def create(self, storage: KeyStorage) -> KeyName:
        key = self.run_it(self.service.create_key(storage=storage))
        self.model[key.name] = ModelKey()
        return key.name

    @rule(name=names, state=st.sampled_from([KeyState.ENABLED, KeyState.DISABLED]))
    def set_state(self, name: KeyName, state: KeyState) -> None:
        found = self.ask(lambda who: self.service.lifecycle.set_state(who, name, state, PLAIN))
        assert found == self.model[name].set_state(state.value)

    @rule(name=names)
    def rotate(self, name: KeyName) -> None:
        found = self.ask(lambda who: self.service.lifecycle.rotate_key(who, name, PLAIN))
        assert found == self.model[name].rotate()

    @rule(name=names)
    def encrypt(self, name: KeyName) -> None:
        model = self.model[name]

        async def use(who: Any) -> None:
            made = await self.service.crypto.encrypt(who, name, b"x", {}, validate_only=False)
            self.blobs[name, model.primary] = made.blob

        assert self.ask(use) == model.use(model.primary)

    @rule(name=names, data=st.data())
    def decrypt(self, name: KeyName, data: st.DataObject) -> None:
        made = [version for key, version in self.blobs if key == name]
        if made:
            version = data.draw(st.sampled_from(made))
            blob = self.blobs[name, version]
            found = self.ask(
                lambda who: self.service.crypto.decrypt(who, name, blob, {}, validate_only=False)
            )
            assert found == self.model[name].use(version)

    @rule(name=names, days=st.integers(7, 30))
    def schedule(self, name: KeyName, days: int) -> None:
        found = self.ask(lambda who: self.deletion.schedule_key(who, name, days, PLAIN))
        assert found == self.model[name].schedule(self.elapsed, days)

    @rule(name=names)
    def cancel(self, name: KeyName) -> None:
        found = self.ask(lambda who: self.deletion.cancel_key(who, name, PLAIN))
        assert found == self.model[name].cancel()

    @rule(name=names, days=st.integers(7, 30), data=st.data())
    def schedule_version(self, name: KeyName, days: int, data: st.DataObject) -> None:
        model = self.model[name]
        number = data.draw(st.sampled_from(sorted(model.versions)))
        version = KeyVersionName(name.region, name.key_id, number)
        found = self.ask(lambda who: self.deletion.schedule_version(who, version, days, PLAIN))
        assert found == model.schedule_version(number, self.elapsed, days)

    @rule(name=names, data=st.data())
    def cancel_version(self, name: KeyName, data: st.DataObject) -> None:
        model = self.model[name]
        number = data.draw(st.sampled_from(sorted(model.versions)))
        version = KeyVersionName(name.region, name.key_id, number)
        found = self.ask(lambda who: self.deletion.cancel_version(who, version, PLAIN))
        assert found == model.cancel_version(number)

    @rule(days=st.integers(1, 31))
    def pass_days(self, days: int) -> None:
        """Servers look after the shard all the time; only after it does this one look."""
        self.clock.sleep(days * 86_400 + 300)  # a little more than the days: marks have a margin
        self.service.eu.store.observed += days * 86_400 + 300
        self.elapsed += days + 300 / 86_400
        self.run_it(self.destruction.look())
        for model in self.model.values():
            model.pass_time(self.elapsed)

    @rule(days=st.sampled_from([-400, 400]))
    def jump(self, days: int) -> None:
        """Set the wall clock, look, and set it right again: nothing may have happened."""
        before = dict(self.service.eu.store.keys)
        self.clock.jump(timedelta(days=days))
        self.run_it(self.destruction.look())
        self.clock.jump(timedelta(days=-days))
        self.run_it(self.destruction.look())
        assert self.service.eu.store.keys == before

    @invariant()
    def agree(self) -> None:
        """States, versions and the HSM are as the model says; whatever is gone is gone."""
        store, token = self.service.eu.store, self.service.eu.token
        for name, model in self.model.items():
            key = store.keys[name.key_id]
            assert STATES[key.state] == model.state
            assert {v.number: VERSION_STATES[v.state] for v in key.versions} == model.versions
            for version in key.versions:
                is_gone = version.state is VersionState.DESTROYED
                if key.storage is KeyStorage.WRAPPED:
                    assert (version.wrapped is None) == is_gone
                else:
                    assert (key.version_ref(version.number) not in token.materials) == is_gone
        assert self.observer.problems == []

    def teardown(self) -> None:
        type(self).destructions += len(self.observer.names)
        self.loop.close()


def test_keys_live_as_the_model_says(figures: Callable[..., None]) -> None:
    """No walk through the operations, and no jump of a clock, finds a difference."""
    walks = settings(max_examples=60, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(LifecycleMachine, settings=walks)
    figures(calls=LifecycleMachine.steps, destroyed=LifecycleMachine.destructions)
    assert LifecycleMachine.destructions > 0
