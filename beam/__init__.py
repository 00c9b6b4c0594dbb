"""The method as steps of your own Beam pipeline: see ``docs/beam.md``.

with beam.Pipeline(runner="FnApiRunner") as pipeline:
    results = pipeline | LabelImages.from_source("photos", "job.yaml").with_exception_handling()
    results.labels | "Labels" >> WriteRecords("out")
    results.dead_letters | "Dead letters" >> WriteRecords("out")
"""

from grpo_tta.beam.label import LabelError, LabelImages, LabelResults
from grpo_tta.beam.read import ReadImages, ReadImagesFromKafka, ReadStates
from grpo_tta.beam.write import WriteRecords, WriteRecordsToKafka, WriteStates
from grpo_tta.pipeline.errors import ConfigurationError

__all__ = [
    "ConfigurationError",
    "LabelError",
    "LabelImages",
    "LabelResults",
    "ReadImages",
    "ReadImagesFromKafka",
    "ReadStates",
    "WriteRecords",
    "WriteRecordsToKafka",
    "WriteStates",
]
