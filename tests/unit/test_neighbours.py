"""Whether neighbours disturb each other: the ratio of windows, and how many workers follow from it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import pytest

from farm import neighbours
from farm.errors import FarmError
from farm.neighbours import Disturbance


class Machine:
    """Jobs whose calls take longer the more of them run, and a machine that gets slower all the while."""

    def __init__(self, harm: float, drift: float = 0.01) -> None:
        self.harm, self.drift = harm, drift
        self.groups: list[list[int]] = []
        self.running = self.windows = 0
        self.alone: list[bool] = []

    @contextlib.contextmanager
    def start(self, groups: Sequence[Sequence[int]]) -> Iterator[list[Machine]]:
        self.groups = [list(group) for group in groups]
        yield [self] * len(groups)

    def begin(self, seconds: float) -> None:
        self.running += 1
        self.windows += 1

    def seconds_per_call(self) -> float:
        beside = self.running > 1
        self.alone.append(not beside)
        self.running -= 1
        return (self.harm if beside else 1.0) * (1 + self.drift * self.windows)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_OVERLAP_S", 0.0)


def found(low: float, high: float, threads: int = 1, jobs: int = 4) -> Disturbance:
    return Disturbance(threads=threads, jobs=jobs, ratio=(low + high) / 2, low=low, high=high)


@pytest.mark.parametrize("harm", [1.0, 1.5])
def test_the_ratio_is_that_of_a_call_beside_the_others_whatever_drifts(harm: float) -> None:
    machine = Machine(harm)
    measured = neighbours.measure(range(4), 1, machine.start)
    assert measured.ratio == pytest.approx(harm, rel=0.02)
    assert measured.low <= measured.ratio <= measured.high
    assert (measured.jobs, measured.threads) == (4, 1)


def test_jobs_have_processors_of_their_own_that_fill_the_host() -> None:
    machine = Machine(1.0)
    neighbours.measure((0, 1, 2, 5, 6), 2, machine.start)
    assert machine.groups == [[0, 1], [2, 5]]
    neighbours.measure(range(64), 1, machine.start)
    assert len(machine.groups) == neighbours.MOST


def test_few_threads_and_half_of_the_processors_are_tried() -> None:
    assert [neighbours.shares(count) for count in (1, 2, 3, 8)] == [[], [1], [1], [1, 4]]


def test_what_is_tried_fills_the_host() -> None:
    assert [neighbours.shares(count) for count in (9, 16, 64)] == [[2, 4], [2, 8], [8, 32]]
    for count in (2, 3, 7, 9, 12, 17, 64, 96):
        for threads in neighbours.shares(count):
            machine = Machine(1.0)
            neighbours.measure(range(count), threads, machine.start)
            assert count - len(machine.groups) * threads < threads


def test_the_most_jobs_that_do_no_harm_are_advised() -> None:
    both = [found(1.0, 1.02, threads=1, jobs=4), found(0.99, 1.01, threads=2, jobs=2)]
    assert neighbours.advice(both).startswith("4 times: python -m workers --device cpu --threads 1\n")
    only = [found(1.3, 1.5, threads=1, jobs=4), found(0.99, 1.01, threads=2, jobs=2)]
    assert neighbours.advice(only).startswith("2 times: python -m workers --device cpu --threads 2\n")


def test_harm_is_a_reason_for_one_worker() -> None:
    assert neighbours.advice([found(1.3, 1.5)]) == "once, with all processors: python -m workers --device cpu"
    assert neighbours.advice([]) == "once, with all processors: python -m workers --device cpu"


def test_where_there_is_less_time_than_processors_no_worker_takes_all_of_them() -> None:
    harm, none = found(1.3, 1.5), found(0.99, 1.01, threads=1, jobs=3)
    for measured in ([harm], []):
        advice = neighbours.advice(measured, at_most=3)
        assert advice.endswith("(3): python -m workers --device cpu --threads 3")
    assert neighbours.advice([none], at_most=3).endswith("one worker with --threads 3)")


@pytest.mark.parametrize(("low", "high", "is_busy"), [(0.9, 1.4, False), (1.3, 1.5, True)])
def test_what_could_not_be_told_is_to_be_measured_again(low: float, high: float, is_busy: bool) -> None:
    advice = neighbours.advice([found(low, high)], is_busy)
    assert advice.startswith("once")
    assert "run this again" in advice


def test_live_processes_compute_when_they_are_told_to_and_are_gone_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(neighbours, "WINDOW_S", 0.01)
    with neighbours.living([[0]]) as [job]:
        job.begin(0.01)
        assert 0 < job.seconds_per_call() < 10
        process = job._process  # type: ignore[attr-defined]
        assert process.poll() is None
    assert process.poll() is not None


def test_a_process_that_ends_early_is_an_error() -> None:
    with pytest.raises(FarmError, match="ended early"), neighbours.living([[99999]]):
        pass
