"""The energy pass: from one step of a counter to a later one, and a reason where there is no figure."""

from __future__ import annotations

from pathlib import Path

import pytest

from farm.devices.rapl import Rapl
from farm.errors import Unsupported
from farm.passes import energy
from farm.timing import Stopwatch
from tests import factories
from tests.fakes.driver import UUID, Driver
from tests.fakes.host import Host

HERE = factories.environment()
SPEC = factories.spec(batch_size=8)


class Load:
    """Calls of 10 ms; nothing else moves the clock. The device uses 200 W, and its counter moves in steps."""

    def __init__(self, host: Host, step_s: float, watts: float = 200.0) -> None:
        self.host, self.step_s, self.watts = host, step_s, watts
        self.now_ms = 0
        self._show()

    def stopwatch(self) -> Stopwatch:
        return Stopwatch(call=self._call, inputs=[0], synchronize=lambda: None, clock=lambda: self.now_ms * 10**6)

    def _call(self, item: int) -> None:
        self.now_ms += 10
        self._show()

    def _show(self) -> None:
        steps = int(self.now_ms / 1e3 / self.step_s + 1e-9)
        self.host.package(0, joules=50 + self.watts * steps * self.step_s)


def test_energy_is_exact_however_coarse_the_counter(tmp_path: Path) -> None:
    load = Load(Host(tmp_path), step_s=0.1)
    load.now_ms = 50  # in between two steps
    found = energy.run(load.stopwatch(), SPEC, HERE, lambda _: Rapl(tmp_path))
    assert found.mean_w == pytest.approx(200)
    assert found.per_sample_j == pytest.approx(200 * 0.01 / 8)
    assert (found.scope, found.samples) == ("package", 8 * round(found.window_s / 0.01))
    assert 1.0 <= found.window_s <= 1.2


def test_calls_go_on_until_a_slow_counter_moves(tmp_path: Path) -> None:
    found = energy.run(Load(Host(tmp_path), step_s=4.0).stopwatch(), SPEC, HERE, lambda _: Rapl(tmp_path))
    assert found.window_s == pytest.approx(4.0)
    assert found.mean_w == pytest.approx(200)


def test_a_counter_that_stands_still_is_no_energy_of_zero(tmp_path: Path) -> None:
    load = Load(Host(tmp_path), step_s=0.1, watts=0)
    with pytest.raises(Unsupported, match="did not move"):
        energy.run(load.stopwatch(), SPEC, HERE, lambda _: Rapl(tmp_path))


def test_only_the_first_repeat_is_metered(tmp_path: Path) -> None:
    load = Load(Host(tmp_path), step_s=0.1)
    with pytest.raises(Unsupported, match="first repeat"):
        energy.run(load.stopwatch(), factories.spec(repeat=1), HERE, lambda _: Rapl(tmp_path))
    assert load.now_ms == 0


def test_a_protocol_may_leave_it_out(tmp_path: Path) -> None:
    load = Load(Host(tmp_path), step_s=0.1)
    spec = factories.spec(protocol=factories.PROTOCOL.model_copy(update={"energy_s": 0}))
    with pytest.raises(Unsupported, match="protocol"):
        energy.run(load.stopwatch(), spec, HERE, lambda _: Rapl(tmp_path))
    assert load.now_ms == 0


def test_a_gpus_energy_is_metered_with_its_own_counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    driver, now_ms = Driver(monkeypatch), 0

    def call(item: int) -> None:
        nonlocal now_ms
        now_ms += 10
        driver.energy_mj = now_ms // 100 * 70_000  # 700 W, ten times a second

    watch = Stopwatch(call=call, inputs=[0], synchronize=lambda: None, clock=lambda: now_ms * 10**6)
    found = energy.run(watch, SPEC, factories.environment(device_kind="cuda", device_uuid=UUID))
    assert found.scope == "gpu"
    assert found.mean_w == pytest.approx(700)
    assert driver.opened == 0


def test_a_gpu_that_stops_counting_is_a_reason_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(monkeypatch)

    def call(item: int) -> None:
        driver.refused = {"nvmlDeviceGetTotalEnergyConsumption"}

    watch = Stopwatch(call=call, inputs=[0], synchronize=lambda: None)
    with pytest.raises(Unsupported, match="does not count"):
        energy.run(watch, SPEC, factories.environment(device_kind="cuda", device_uuid=UUID))
    assert driver.opened == 0


def test_long_calls_are_metered_for_as_long_as_the_counters_steps_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, now_ms = Driver(monkeypatch), 0

    def call(item: int) -> None:
        nonlocal now_ms
        now_ms += 250
        driver.energy_mj = now_ms // 100 * 70_000  # 700 W, ten times a second

    watch = Stopwatch(call=call, inputs=[0], synchronize=lambda: None, clock=lambda: now_ms * 10**6)
    found = energy.run(watch, SPEC, factories.environment(device_kind="cuda", device_uuid=UUID))
    assert 10 <= found.window_s <= 11
    assert found.mean_w == pytest.approx(700, rel=0.02)


def test_power_limit_and_clock_stand_beside_a_gpus_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, now_ms = Driver(monkeypatch), 0

    def call(item: int) -> None:
        nonlocal now_ms
        now_ms += 10
        driver.energy_mj = now_ms * 700

    watch = Stopwatch(call=call, inputs=[0], synchronize=lambda: None, clock=lambda: now_ms * 10**6)
    here = factories.environment(device_kind="cuda", device_uuid=UUID)
    found = energy.run(watch, SPEC, here)
    assert (found.power_limit_w, found.clock_hz) == (700, 1.755e9)
    driver.refused = {"nvmlDeviceGetPowerManagementLimit"}
    assert energy.run(watch, SPEC, here).power_limit_w is None
