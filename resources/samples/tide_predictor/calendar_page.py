#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns the output of "tide extremes" into a page of the tide calendar.

Usage: ./tide extremes 2025-06-01 30 | python3 calendar_page.py
"""

import sys
from collections import defaultdict

# A high water above this height gets an exclamation mark, because the lower landing is then under water.
LANDING_FLOODS_AT = 4.2


def read_extremes(lines):
    """Groups the extremes by day: {date: [(time, height, kind), ...]}."""
    days = defaultdict(list)
    for number, line in enumerate(lines, start=1):
        parts = line.split()
        if len(parts) != 4 or parts[3] not in ("high", "low"):
            raise ValueError(f"line {number} is not an extreme: {line!r}")
        date, time, height, kind = parts
        days[date].append((time, float(height), kind))
    return days


def format_extreme(time, height, kind):
    """One cell of the calendar, such as "H 05:14 4.1"."""
    warning = "!" if kind == "high" and height > LANDING_FLOODS_AT else " "
    return f"{kind[0].upper()} {time} {height:.1f}{warning}"


def format_page(days):
    """One line for each day, its extremes in columns."""
    return "\n".join(f"{date}  " + "  ".join(format_extreme(*extreme) for extreme in days[date]) for date in sorted(days))


def main():
    try:
        print(format_page(read_extremes(sys.stdin)))
    except ValueError as problem:
        print(f"calendar_page: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
