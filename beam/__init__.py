"""The method as steps of your own Beam pipeline: see ``docs/beam.md``.

with beam.Pipeline(runner="FnApiRunner") as pipeline:
    results = pipeline | LabelImages.from_source("photos", {}).with_exception_handling()
    results.labels | "Labels" >> WriteRecords("out")
    results.dead_letters | "Dead letters" >> WriteRecords("out")
"""

from grpo_tta.pipeline.quiet import quiet_import

with quiet_import():
    import apache_beam  # noqa: F401  (before whatever else would import it)

from grpo_tta.beam.commit import CommitOffsets
from grpo_tta.beam.label import LabelError, LabelImages, LabelResults
from grpo_tta.beam.read import KafkaImages, ReadImages, ReadImagesFromKafka
from grpo_tta.beam.runners import JobStalled, wait_until_finish
from grpo_tta.beam.states import ReadStates, WriteStates
from grpo_tta.beam.write import WriteRecords, WriteRecordsToKafka
from grpo_tta.pipeline.errors import ConfigurationError

__all__ = [
    "CommitOffsets",
    "ConfigurationError",
    "JobStalled",
    "KafkaImages",
    "LabelError",
    "LabelImages",
    "LabelResults",
    "ReadImages",
    "ReadImagesFromKafka",
    "ReadStates",
    "WriteRecords",
    "WriteRecordsToKafka",
    "WriteStates",
    "wait_until_finish",
]
