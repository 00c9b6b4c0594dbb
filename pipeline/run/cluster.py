"""A job over a listing on a Dask cluster: its shards (`pipeline.run.shards`), labelled by the cluster's workers.

The submitter lists the source and hands out the shards' numbers, by Beam's DaskRunner; a worker labels a shard as
``--shard I/N`` does, with the in-process runner, and writes its outputs, states and commits itself. So no reference and
no record goes through the scheduler, and a shard whose worker died is run again by another and goes on from its last
commit. The records are those of a job in one process, to the rounding of forwards that other streams share.

The checkpoint's ``cluster.json`` names the submission that workers work for. Between two slices each looks whether it
still does: so workers stop that an earlier submission left behind, and those of one that is asked to stop.
"""

import logging
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sealed import read_sealed, seal_json
from grpo_tta.pipeline.checkpoint.log import Conflict
from grpo_tta.pipeline.config.job import JobConfig
from grpo_tta.pipeline.config.policy import uri_policy
from grpo_tta.pipeline.config.resolved import ResolvedJob
from grpo_tta.pipeline.errors import ConfigurationError, JobError
from grpo_tta.pipeline.label.load import leave_labeler, take_labeler
from grpo_tta.pipeline.run.bounded import SUMMARY, JobResult, job_listing, run_label_job
from grpo_tta.pipeline.run.driver import Progress
from grpo_tta.pipeline.run.pickled import Pickled
from grpo_tta.pipeline.run.places import output_stores, outputs_claimed
from grpo_tta.pipeline.run.runner import IN_PROCESS, check_runner, make_pipeline
from grpo_tta.pipeline.run.shards import Shard, check_shards, shards_noted
from grpo_tta.schemas import Summary

_SUBMISSION = "cluster.json"
_SHARDS = 16
"""Of a job that does not say."""
_LOOK_SECONDS = 5.0
"""Between two looks at how far the shards are."""
_NAP = 0.2
_TRIES = 3


def run_on_cluster(
    config: JobConfig | ResolvedJob,
    *,
    progress: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> JobResult:
    """As `run_label_job`, of which it takes and gives what that does; ``stop()`` lets running slices commit."""
    job = ResolvedJob.of(config)
    config = job.config
    check_runner(config.run)
    outputs, store = output_stores(config)
    uri_policy(config)
    count = _count(config, store)
    shards = Shard(0, count, store)
    check_shards(store, shards)
    listing = job_listing(config, store)
    before = shards.totals()
    with outputs_claimed(store, outputs):
        submission = _Submission(store.url, uuid4().hex)
        submission.begin()
        work = LabelShard(_for_workers(job), count, submission)
        try:
            _run(config, work, count, _Teller(shards, len(listing), progress), stop)
        finally:
            submission.end()
    after = shards.totals()
    try:
        summary = Summary.model_validate_json(outputs[0].read(SUMMARY))
    except FileNotFoundError as error:
        raise JobError("stopped before a worker began; run the same command again to go on") from error
    return JobResult(summary, after.finished, did_nothing=before.finished and before == after)


class _Teller:
    """Says how far the shards are where they got on."""

    def __init__(self, shards: Shard, total: int, progress: Callable[[Progress], None]) -> None:
        self._shards = shards
        self._total = total
        self._progress = progress
        self._told = -1

    def __call__(self) -> None:
        counters = self._shards.totals().counters
        if counters.events != self._told:
            self._told = counters.events
            rate = counters.labels / counters.seconds if counters.seconds else 0.0
            self._progress(Progress(counters.events, self._total, counters, rate))


@dataclass(frozen=True)
class _Submission:
    """A run of the command, by the checkpoint whose job it runs."""

    checkpoint_url: str
    token: str

    def begin(self) -> None:
        """From now on it is this one that workers work for."""
        ObjectStore(self.checkpoint_url).write(_SUBMISSION, seal_json(_SUBMISSION, {"submission": self.token}))

    def end(self) -> None:
        """Nobody does any more."""
        if not self.over():
            ObjectStore(self.checkpoint_url).write(_SUBMISSION, seal_json(_SUBMISSION, {"submission": ""}))

    def over(self) -> bool:
        """Whether it has ended, or another one has begun."""
        return bool(read_sealed(ObjectStore(self.checkpoint_url), _SUBMISSION)["submission"] != self.token)


@dataclass(frozen=True)
class LabelShard:
    """What a worker does with a shard's number; whether the shard is done."""

    job: ResolvedJob
    count: int
    submission: _Submission

    def __call__(self, index: int) -> bool:
        """Label it as far as it is not, or until the submission is over."""
        logging.getLogger("apache_beam").setLevel(logging.WARNING)
        if self.submission.over():
            return False
        _keep_model(self.job)
        run = self.job.config.run.model_copy(update={"shard": f"{index}/{self.count}"})
        shard = replace(self.job, config=self.job.config.model_copy(update={"run": run}))
        for left in reversed(range(_TRIES)):
            try:
                return run_label_job(shard, stop=self.submission.over).finished
            except Conflict:  # a worker that an earlier submission left behind has just committed its last slice
                if not left:
                    raise
        raise AssertionError("_TRIES >= 1")


_kept: list[ResolvedJob] = []
"""The job whose model this worker keeps for its next shard."""


def _keep_model(job: ResolvedJob) -> None:
    if [kept.key for kept in _kept] != [job.key]:
        while _kept:
            leave_labeler(_kept.pop())
        take_labeler(job)
        _kept.append(job)


def _for_workers(job: ResolvedJob) -> ResolvedJob:
    run = job.config.run.model_copy(update={"runner": IN_PROCESS, "beam_options": (), "metrics_port": None})
    return replace(job, config=job.config.model_copy(update={"run": run}))


def _count(config: JobConfig, store: ObjectStore) -> int:
    """How many shards: as Dask's own option says, as the job was begun with, or some."""
    from apache_beam.runners.dask.dask_runner import DaskOptions

    asked = PipelineOptions(list(config.run.beam_options)).view_as(DaskOptions).npartitions
    return int(asked or shards_noted(store) or _SHARDS)


def _run(config: JobConfig, work: LabelShard, count: int, tell: Callable[[], None], stop: Callable[[], bool]) -> None:
    """One step over one PCollection, which is all that this runner needs to be trusted with. Raises what a worker
    raised."""
    run = config.run.model_copy(update={"beam_options": (*config.run.beam_options, f"--dask_npartitions={count}")})
    pipeline = make_pipeline(run)
    pickled = Pickled(pickle.dumps(work))
    _ = pipeline | "Shards" >> beam.Create(range(count), reshuffle=False) | "LabelShard" >> beam.Map(pickled)
    logging.getLogger("distributed").setLevel(logging.WARNING)
    try:
        result: Any = pipeline.run()
    except OSError as error:
        raise JobError(f"the Dask cluster cannot be reached: {error}") from error
    try:
        looked = time.monotonic()
        tell()
        while not all(future.done() for future in result.futures):
            time.sleep(_NAP)
            if stop():
                work.submission.end()
            if time.monotonic() - looked > _LOOK_SECONDS:
                tell()
                looked = time.monotonic()
        result.wait_until_finish()
        tell()
    except (ConfigurationError, JobError):
        raise
    except Exception as error:  # what the cluster makes of its workers' ends, too
        raise JobError(f"a shard failed on the Dask cluster: {type(error).__name__}: {error}") from error
    finally:
        result.client.close()
