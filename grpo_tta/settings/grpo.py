"""Every knob of GRPO-TTA, declared and checked once.

A configuration layer wraps this dataclass; it declares no field a second time. The defaults are this project's measured
recipe for the online mode; ``GrpoSettings.episodic()`` has those of the episodic mode. Labels tell where an item comes
from: [paper] GRPO-TTA itself, [3rd-party] a published summary of it, [sibling] GRPO-RM, [GRPO] its usual form, [peer:X]
X's public source code, [ours] a choice of this project.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from grpo_tta.checks import AS_SECTION, check_fields

Mode = Literal["online", "episodic"]
Tune = Literal["norm", "lora", "full"]
GroupMode = Literal["topk", "gumbel"]
GroupWeights = Literal["policy", "uniform"]
Alignment = Literal["whitened", "frozen", "consensus", "view", "ensemble", "reward_model"]
Dispersion = Literal["marginal", "probability", "text", "none"]
Advantage = Literal["centred", "zscore"]
SimilarityKind = Literal["whitened", "plain"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "mode": ("online", "episodic"),
    "tune": ("norm", "lora", "full"),
    "group_mode": ("topk", "gumbel"),
    "group_weights": ("policy", "uniform"),
    "alignment": ("whitened", "frozen", "consensus", "view", "ensemble", "reward_model"),
    "dispersion": ("marginal", "probability", "text", "none"),
    "advantage": ("centred", "zscore"),
    "similarity": ("whitened", "plain"),
}
_AT_LEAST: dict[str, int] = {
    "group_size": 2,
    "inner_steps": 1,
    "update_every": 1,
    "views": 1,
    "images_at_once": 1,
    "lora_rank": 1,
    "lora_blocks": 1,
}
_POSITIVE = ("temperature", "marginal_frames_per_class", "clip", "view_min_area", "confident_share")
_NOT_NEGATIVE = ("dispersion_weight", "feature_dispersion", "certainty", "logit_adjustment", "kl", "pull")

_SHARES = ("pull", "view_min_area", "confident_share")
_LEARNING_RATES = {
    "online": {"norm": 2e-3, "lora": 5e-3, "full": 1e-5},
    "episodic": {"norm": 1e-3, "lora": 5e-3, "full": 1e-5},
}
_LONGEST_WINDOW = 256


@dataclass(frozen=True)
class GrpoSettings:
    """Settings of GRPO-TTA; raises ``ValueError`` naming the field, the rule and the value."""

    __pydantic_config__: ClassVar[dict[str, Any]] = AS_SECTION

    mode: Mode = "online"
    """``online``: what a stream has learnt is carried on [ours]; ``episodic``: each image starts from the frozen
    encoder [peer:RLCF, TPT]."""
    tune: Tune = "norm"
    """Tuned part of the visual encoder [paper: the visual encoder; the parts are ours]: ``norm`` affine parameters of
    every normalisation layer, ``lora`` low-rank deltas on the attention of the last blocks, ``full`` everything."""
    group_size: int = 10
    """Candidates in a group, at least 2; at most the number of classes count. [paper: top-K; the value is ours]"""
    group_mode: GroupMode = "topk"
    """``topk``: the most probable [peer:RLCF]; ``gumbel``: drawn without replacement (Gumbel-top-G), seeded by the
    image [ours]."""
    temperature: float = 1.0
    """Of the sampling distribution of ``gumbel``, > 0. [ours]"""
    group_weights: GroupWeights = "policy"
    """How much a candidate counts: ``policy`` as its probability within the group, which is what GRPO's samples
    estimate [ours]; ``uniform`` all alike [peer:RLCF]."""
    alignment: Alignment = "whitened"
    """Alignment reward [paper: the name]: see ``grpo_tta.rewards``. ``whitened``: the frozen encoder's probability in
    the metric of the stream's features (`grpo_tta.whitening`) [ours]; online only. ``ensemble`` and ``reward_model``
    are for use as a library: a job has no second set of vectors and no second model, and refuses them."""
    dispersion: Dispersion = "marginal"
    """Dispersion reward [paper: the name]: see ``grpo_tta.rewards``. ``marginal`` [ours] needs a stream's memory:
    online only. ``probability`` [sibling], ``text`` [3rd-party: a summary of the paper; the form ours]."""
    dispersion_weight: float = 0.3
    """Weight of the dispersion reward, >= 0. [ours]"""
    feature_dispersion: float = 20.0
    """Online: weight, >= 0, of a second dispersion reward, of features: minus the mean cosine to the last frames of
    other classes (`grpo_tta.rewards.feature_dispersion`), times the stream's own mean of it, which is how far the input
    squeezes features together. [ours; the cosine term is BATCLIP's, there between class means of a batch]"""
    certainty: float = 0.3
    """Online: weight of the policy's own entropy in the loss, >= 0. [ours; peer:Tent minimises it alone]"""
    similarity: SimilarityKind = "whitened"
    """Online: the policy, which labels come from too, is of adapted features in the metric of the stream's adapted
    features, or of plain cosines. [ours]"""
    marginal_frames_per_class: float = 1.0
    """Online: memory of a stream's marginals, and of the classes that it has shown, by which it is trusted, in frames
    per class, > 0; at least ten updates. [ours]"""
    logit_adjustment: float = 1.0
    """Online: labels are those of the adapted logits minus this times the log of the adapted encoder's own marginal of
    runners-up, as far as the stream is to be trusted; 0: the adapted encoder's as they are. [ours]"""
    advantage: Advantage = "centred"
    """``centred`` (reward minus the group's mean) [ours]; ``zscore`` also divides by the deviation [GRPO]."""
    clip: float = 0.2
    """Width of the ratio's clip, > 0 [GRPO, the usual value]. It has no effect on the first step on a group,
    where the ratio is 1: so none online, and none with one inner step."""
    kl: float = 0.0
    """Weight of the exact KL divergence from the frozen policy, >= 0. [sibling: 0]"""
    inner_steps: int = 1
    """Optimiser steps on one group [ours; peer:RLCF takes 3]. Online it must be 1: the frames of an update are not
    kept."""
    update_every: int = 16
    """Online: frames between two updates, 1 to 256, whatever the batches; of longer windows it could not be told how
    far frames are independent. [ours]"""
    learning_rate: float | None = None
    """Adam's, > 0; none: for ``norm`` 2e-3 online [ours] and 1e-3 episodic [peer:WATT, BATCLIP], 5e-3 for ``lora``
    [peer:TTL], 1e-5 for ``full`` [peer:RLCF]."""
    pull: float = 0.01
    """Online: share of the way back to the start after each update, 0 to 1, of a stream that is trusted; up to ten
    times as much of one that is not. [ours]"""
    gate_frames: int | None = None
    """Online, > 0: after so many frames that were learnt from since the initial state, or a shift that the guard found,
    most windows of ``update_every`` frames are only labelled, by one forward (``docs/method.md#gated``); none: every
    frame is learnt from. [ours]"""
    views: int = 1
    """Views an image: the plain one and ``views - 1`` random resized crops with flips [peer:TPT, RLCF; their number
    ours]."""
    confident_share: float = 1.0 / 3.0
    """Share of the views, those of lowest entropy, that are trained on and make the consensus; > 0, at most 1; at least
    one view. [peer:TPT, there 0.1]"""
    view_min_area: float = 0.5
    """Smallest area of a crop, as a share of the image, > 0; the largest is 1; of no effect with one view. [ours]"""
    images_at_once: int = 16
    """Episodic: images adapted in one forward; bounds memory, changes labels by rounding alone. [ours]"""
    lora_rank: int = 16
    """Of the deltas, at least 1. [peer:TTL]"""
    lora_blocks: int = 3
    """Attention layers with deltas, counted from the last, at least 1. [peer:TTL]"""
    seed: int = 0
    """Mixed into every image's own seed, which draws crops and ``gumbel`` groups; of no effect with neither."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            choices=_CHOICES,
            at_least=_AT_LEAST,
            positive=_POSITIVE,
            not_negative=_NOT_NEGATIVE,
            shares=_SHARES,
            optional_positive=("learning_rate", "gate_frames"),
        )
        if self.update_every > _LONGEST_WINDOW:
            raise ValueError(f"update_every must be <= {_LONGEST_WINDOW}, got {self.update_every}")
        self._check_mode()

    def _check_mode(self) -> None:
        if self.mode == "online" and self.inner_steps > 1:
            raise ValueError(
                f"inner_steps must be 1 in online mode (the frames of an update are not kept), got {self.inner_steps}: "
                "raise learning_rate or lower update_every, or use mode episodic"
            )
        if self.mode == "online":
            return
        needs = "it needs a stream's memory"
        if self.gate_frames is not None:
            raise ValueError(
                f"gate_frames must be None in episodic mode (nothing learnt is left to serve), got {self.gate_frames}"
            )
        if self.dispersion == "marginal":
            raise ValueError(f"dispersion must be probability, text or none in episodic mode, got 'marginal': {needs}")
        for name in ("alignment", "similarity"):
            if getattr(self, name) == "whitened":
                raise ValueError(f"{name} must not be 'whitened' in episodic mode: {needs}")
        for name in ("feature_dispersion", "certainty"):
            if getattr(self, name):
                raise ValueError(f"{name} must be 0 in episodic mode, got {getattr(self, name)}: {needs}")

    @classmethod
    def episodic(cls, **changes: Any) -> "GrpoSettings":
        """Defaults of the episodic mode, with ``changes``: K = 3 [peer:RLCF], 8 views, the confident third, the views'
        consensus as the reward, one step [ours]."""
        defaults: dict[str, Any] = {
            "mode": "episodic",
            "group_size": 3,
            "alignment": "consensus",
            "dispersion": "probability",
            "feature_dispersion": 0.0,
            "certainty": 0.0,
            "similarity": "plain",
            "group_weights": "uniform",
            "views": 8,
        }
        return cls(**{**defaults, **changes})

    @classmethod
    def for_mode(cls, mode: str, **changes: Any) -> "GrpoSettings":
        """The defaults of ``mode`` with ``changes``."""
        return cls.episodic(**changes) if mode == "episodic" else cls(**{"mode": mode, **changes})

    def but(self, **changes: Any) -> "GrpoSettings":
        """A copy with ``changes``, checked again."""
        return replace(self, **changes)

    @property
    def step_size(self) -> float:
        """The learning rate in use."""
        return self.learning_rate if self.learning_rate is not None else _LEARNING_RATES[self.mode][self.tune]

    @property
    def confident_views(self) -> int:
        """How many of an image's views are trained on: at least one, rounded."""
        return max(1, round(self.confident_share * self.views))
