"""Which model a benchmark adapts: the packaged one, or another with the packaged classes."""

import argparse
from pathlib import Path

import torch

from demo.reference import calibrated
from grpo_tta import Classifier, ModelSettings, keep_freed_memory, load_classifier
from grpo_tta.demo.packaged import reference_path
from grpo_tta.guard.reference import Reference


def model_flags(flags: argparse.ArgumentParser) -> None:
    """``--model`` and ``--class-vectors``."""
    flags.add_argument("--model", metavar="NAME", help="another than the packaged one, with the packaged classes")
    flags.add_argument("--class-vectors", type=Path, metavar="FILE", help="of --model")


def loaded(arguments: argparse.Namespace) -> Classifier:
    """The model that the flags name, in a process that runs it on one thread."""
    keep_freed_memory()
    torch.set_num_threads(1)
    if arguments.model is None:
        return load_classifier()
    return load_classifier(ModelSettings(name=arguments.model), class_vectors=arguments.class_vectors)


def shared_reference(arguments: argparse.Namespace, classifier: Classifier) -> Reference:
    """The drift reference of that model: the packaged one, or one that is made as ``demo.reference`` makes it."""
    return Reference.from_bytes(reference_path().read_bytes()) if arguments.model is None else calibrated(classifier)
