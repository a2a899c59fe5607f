"""How long after `docker compose up` the CPU worker takes jobs: what a team waits for after a restart.

    python -m benchmarks.containers_start

Wants Docker, `compose/setup` and built images; ends the farm of this folder, starts it and leaves it running. The
goal is 20 seconds. The last line is the figure as JSON.
"""

from __future__ import annotations

import json
import subprocess
import time

GOAL_S = 20.0
PATIENCE_S = 120.0


def main() -> None:
    """Down, up, and then looks at the worker's log for the line that it is ready."""
    compose("down", "--timeout", "30")
    began = time.monotonic()
    compose("up", "--detach", "--no-build")
    up_s = time.monotonic() - began
    while "ready: " not in compose("logs", "cpu-worker"):
        if time.monotonic() - began > PATIENCE_S:
            raise SystemExit(f"The worker was not ready after {PATIENCE_S:g} s: docker compose logs cpu-worker")
        # There is nothing to wait on but the log; looking so often costs the start little.
        time.sleep(0.2)
    ready_s = time.monotonic() - began
    print(f"`docker compose up --detach` returned after {up_s:.1f} s; the worker was ready after {ready_s:.1f} s.")
    print(json.dumps({"ready_s": ready_s, "up_s": up_s, "goal_s": GOAL_S, "reached": ready_s <= GOAL_S}))


def compose(*arguments: str) -> str:
    """What `docker compose` prints on stdout."""
    done = subprocess.run(["docker", "compose", *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    main()
