# SPDX-License-Identifier: Apache-2.0
"""Figures of the agent beside those of a peer in Go, measured one right after the other.

`found` is a list of (case, program, {figure: value}), round by round; programs are "weir" and, on
machines with Go, "go". `cpus_used_by_others` is one of the figures.

Thread-safe: pure functions, but for what is printed.
"""
import statistics

from rig import spread

# More than this share of a CPU taken by others, and the figures are partly theirs.
QUIET_CPUS = 0.2
# A clock that ticks in 10 ns shows 0.00 us at times.
LEAST = 0.01


def series(found, case, program, figure):
    return [figures[figure] for c, p, figures in found if (c, p) == (case, program)]


def ratio(found, case, figure):
    """Spread of the agent's figure over Go's, within the rounds."""
    return spread([weir / max(go, LEAST) for weir, go in zip(series(found, case, "weir", figure),
                                                             series(found, case, "go", figure))])


def print_case(found, case, title, programs, figures):
    print(f"\n{title}: median of rounds (least..greatest)")
    for program in programs:
        spreads = ((figure, spread(series(found, case, program, figure))) for figure in figures)
        print(f"  {program:5}" + "  ".join(
            f"{figure} {s['median']:.2f} ({s['min']:.2f}..{s['max']:.2f})"
            for figure, s in spreads))
    if "go" in programs:
        ratios = ((figure, ratio(found, case, figure)) for figure in figures)
        print("  ratio " + "  ".join(
            f"{figure} x{r['median']:.2f} ({r['min']:.2f}..{r['max']:.2f})"
            for figure, r in ratios if r))


def used_by_others(found):
    """CPUs, in the median of the runs; says so when it is too much."""
    others = statistics.median(figures["cpus_used_by_others"] for _, _, figures in found)
    if others > QUIET_CPUS:
        print(f"\nNOISY: other processes used {others:.2f} CPUs meanwhile (median of runs)")
    return others
