"""Decides whether a job of data preparation that reached its time limit starts again.

``python -m data_prep.slurm_job CONFIG.yaml [key.sub=value ...] --job-id ID --limit N``

Exit code 75 if it does, 1 if its tries finish no more parts. `slurm/data_prep.sh` calls it.
"""

import logging
from dataclasses import replace

from configs import command
from configs.load import load
from data_prep.config import DataConfig
from data_prep.job_state import finished_parts, read_state, write_state

logger = logging.getLogger(__name__)

EXIT_REQUEUE = 75
EXIT_FAILED = 1


def main() -> int:
    """The exit code, after the state of the job is written."""
    parser = command.parser(__doc__ or "")
    parser.add_argument("--job-id", metavar="ID", required=True, help="the Slurm job")
    parser.add_argument(
        "--limit",
        metavar="N",
        type=int,
        required=True,
        help="tries in a row without a newly finished part that end the job",
    )
    parser.add_argument(
        "--restart-from",
        metavar="STAGE",
        help="accepted because the job's own command may have it; no effect",
    )
    arguments = parser.parse_args()
    config = load(arguments.config, DataConfig, arguments.overrides)
    return next_step(config, arguments.job_id, arguments.limit)


def next_step(config: DataConfig, job_id: str, limit: int) -> int:
    """EXIT_REQUEUE, or EXIT_FAILED after `limit` tries in a row that finished no part.

    What an earlier job has finished counts for the first try of this one.
    """
    before = read_state(config.work, job_id)
    finished = finished_parts(config.work)
    tries = 0 if finished > before.finished else before.tries + 1
    write_state(config.work, replace(before, finished=finished, tries=tries))
    if tries >= limit:
        logger.error(
            "%d tries in a row reached the time limit and finished no part: not requeued. Raise "
            "--time, or lower part_mb with --restart-from ingest, and submit again",
            tries,
        )
        return EXIT_FAILED
    logger.info("%d parts are finished; the next try continues", finished)
    return EXIT_REQUEUE


if __name__ == "__main__":
    command.run(main)
