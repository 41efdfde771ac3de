"""Files saved in scratch and uploaded to the lake, beside what else saves them there.

Here: the rounds and the table.  Many small files are in saving_many, a large one in saving_large.
"""

from __future__ import annotations

from benchmarks import saving_large, saving_many
from benchmarks.bench import Bench, say
from benchmarks.report import Result, number
from benchmarks.saving_ways import COLUMNS, has
from benchmarks.ways import RCLONE, is_measured, median


def saving(bench: Bench) -> Result:
    """Save through fresh mounts, round by round, everything in turn."""
    result = Result("saving", "files saved in scratch", ["what", *COLUMNS])
    archive = saving_many.archive(bench)
    length = saving_large.size(bench)
    for round_ in range(bench.sizes.rounds):
        say(f"saving, round {round_ + 1} of {bench.sizes.rounds}")
        saving_many.measure(bench, archive, round_, result)
        saving_large.measure(bench, length, round_, result)
    for what in (*saving_many.ROWS, *saving_large.ROWS):
        cells = [
            number(median(result, what, way)) if is_measured(result, what, way) else "-"
            for way in COLUMNS
        ]
        result.rows.append([what, *cells])
    result.verdicts += [*saving_many.verdicts(result), *saving_large.verdicts(result)]
    result.notes.append(
        f"each figure in a fresh mount; {bench.sizes.files:,} files of 1 KiB, a large one of"
        f" {length >> 20} MiB, all to one XRootD over TLS; uploads: from the order `now` until all"
        " are DONE; rclone's: `rclone copy`, which proves and registers nothing"
    )
    if not has(RCLONE):
        result.notes.append("rclone is not installed: not measured")
    return result
