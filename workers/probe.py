"""Whether a device computes: products that are known, in a process of its own, with a deadline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from farm import scratch
from farm.errors import FarmError
from farm.locks import Held
from farm.measurement import Outcome
from farm.settings import Settings
from workers import bounds, watching
from workers.phase import PhaseEnd, classify
from workers.watching import Ended, Stopped, Watched

#: Importing torch from a cold disk, and CUDA's start, take their time.
DEADLINE_S = 120.0

#: Rows and columns; a size that one thread computes in no time.
_SIDE = 256
#: So much memory is written and read back.
_BUFFER_BYTES = 64 << 20


class Prober:
    """Runs the probe on one worker's device."""

    def __init__(
        self,
        settings: Settings,
        device_kind: str,
        command: Sequence[str],
        *,
        run_child: Callable[[Watched], Ended] = watching.run,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._settings = settings
        self._device_kind = device_kind
        self._command = command
        self._run_child = run_child
        self._deadline_s = deadline_s

    def __call__(self, held: Held, tick: Callable[[], object] = lambda: None) -> str | None:
        """What is wrong with the device, which is held; None where it computes.

        Args:
            held: the device and its processors.
            tick: called every `renew_s` seconds meanwhile.
        """
        try:
            with scratch.folder(self._settings) as temporary:
                ended = self._run_child(self._watched(held, temporary, tick))
        except OSError as error:
            return f"the probe could not be started: {error}"
        return _problem(classify(ended, "probe", self._deadline_s))

    def _watched(self, held: Held, temporary: Path, tick: Callable[[], object]) -> Watched:
        def go_on() -> Stopped | None:
            tick()
            return None

        return Watched(
            command=self._command,
            request={
                "phase": "probe",
                "device_kind": self._device_kind,
                "processors": held.processors,
                "bounds": bounds.of(self._settings, self._device_kind),
            },
            environment={
                **scratch.environment(self._settings, temporary),
                "CUDA_VISIBLE_DEVICES": held.gpu_uuid or "",
                "PYTHONFAULTHANDLER": "1",
            },
            descriptors=held.descriptors,
            deadline_s=self._deadline_s,
            tick=go_on,
            tick_s=self._settings.renew_s,
        )


def _problem(ended: PhaseEnd) -> str | None:
    if ended.outcome is Outcome.OK:
        return None
    # CUDA's errors go on with advice for programmers
    first, _, _ = ended.reason.partition("\n")
    return f"{ended.outcome}: {first}"


def compute(device_kind: str) -> None:
    """In the probe's process: allocates, multiplies and compares, on the device of this kind.

    Raises:
        FarmError: the device computes wrong.
        RuntimeError: it does not compute.
    """
    import numpy as np
    import torch

    torch.set_num_threads(1)
    # Small whole numbers: exact in any precision that a device may take for a product of float32.
    left = np.arange(_SIDE * _SIDE).reshape(_SIDE, _SIDE) % 7 - 3
    right = np.arange(_SIDE * _SIDE).reshape(_SIDE, _SIDE) % 5 - 2
    on_device = [torch.from_numpy(matrix).to(device_kind, torch.float32) for matrix in (left, right)]
    wrong = int(np.count_nonzero((on_device[0] @ on_device[1]).cpu().numpy() != left @ right))
    if wrong:
        raise FarmError(f"{wrong} of {_SIDE * _SIDE} figures of a known product are wrong")
    buffer = torch.full((_BUFFER_BYTES // 4,), 3, dtype=torch.int32, device=device_kind)
    if int(buffer.sum()) != 3 * buffer.numel():
        raise FarmError(f"{_BUFFER_BYTES >> 20} MiB of memory do not hold what was written")
