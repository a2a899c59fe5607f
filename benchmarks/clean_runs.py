"""How often does the verdict doubt a measurement that nothing disturbed?

A `quick` matrix of 100 jobs runs in an embedded farm, nothing is measured again, and every measurement is
judged. On an idle host at most 5 % may be SUSPECT or INVALID.

    python -m benchmarks.clean_runs
    python -m benchmarks.clean_runs --repeats 2 --model resnet18
"""

from __future__ import annotations

import argparse
from collections import Counter

from benchmarks.farm_overhead import run
from benchmarks.figures import Figure, print_last
from farm.verdict import Level, judge

RECIPES = "baseline,channels_last,channels_last+amp,onnxruntime"
SHARE = 0.05


def main() -> None:
    """Measures, judges, and prints the figure last."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--repeats", type=int, default=25)
    arguments.add_argument("--model", default="densenet121")
    arguments.add_argument("--batch-size", default="8")
    given = arguments.parse_args()
    asked = ["--models", given.model, "--batch-sizes", given.batch_size, "--protocol", "quick"]
    asked += ["--optimizations", RECIPES, "--set", "remeasure=0"]
    run(*asked, "--repeats", "1")
    results = run(*asked, "--repeats", str(given.repeats))
    verdicts = [judge(result.measurement) for result in results if result.measurement is not None]
    flagged = [verdict for verdict in verdicts if verdict.level is not Level.VALID]
    for text, count in Counter(str(reason) for verdict in flagged for reason in verdict.reasons).most_common():
        print(f"{count} × {text}")
    share = len(flagged) / len(verdicts)
    print(f"{len(flagged)} of {len(verdicts)} were doubted")
    name = f"share of {len(verdicts)} clean runs that is doubted"
    print_last([Figure(name=name, result=f"{share:.1%}", goal="≤ 5 %", reached=share <= SHARE)])


if __name__ == "__main__":
    main()
