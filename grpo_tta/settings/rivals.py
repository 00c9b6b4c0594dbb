"""Settings of the methods beside GRPO-TTA: each field with whose choice its default is.

[peer] is the method's own public code, [ours] a choice of this project; what a method does with them says its module in
`methods`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from grpo_tta.checks import AS_SECTION, check_fields

_LEARNING_RATES = {"norm": 1e-3, "full": 1e-5}


@dataclass(frozen=True)
class ZeroShotSettings:
    """There is nothing to set."""

    __pydantic_config__: ClassVar[dict[str, Any]] = AS_SECTION


@dataclass(frozen=True)
class WhitenedSettings:
    """Settings of the whitened encoder; raises ``ValueError`` naming the field, the rule and the value."""

    __pydantic_config__: ClassVar[dict[str, Any]] = AS_SECTION

    logit_adjustment: float = 0.5
    """Labels are those of the logits minus this times the log of the marginal of runners-up; 0: as they are. [ours]"""
    marginal_frames_per_class: float = 1.0
    """Memory of the marginal in frames, per class; at least 160 frames. [ours]"""

    def __post_init__(self) -> None:
        check_fields(self, positive=("marginal_frames_per_class",), not_negative=("logit_adjustment",))


@dataclass(frozen=True)
class PriorCorrectionSettings:
    """Settings of the prior correction; raises ``ValueError`` naming the field, the rule and the value."""

    __pydantic_config__: ClassVar[dict[str, Any]] = AS_SECTION

    strength: float = 1.0
    """Exponent of the marginal; 0 corrects nothing. [ours]"""
    marginal_frames_per_class: float = 30.0
    """Memory of the marginal in frames, per class. [ours]"""

    def __post_init__(self) -> None:
        check_fields(self, positive=("marginal_frames_per_class",), not_negative=("strength",))


@dataclass(frozen=True)
class DotaSettings:
    """Settings of DOTA; raises ``ValueError`` naming the field, the rule and the value."""

    __pydantic_config__: ClassVar[dict[str, Any]] = AS_SECTION

    epsilon: float = 0.001
    """Share of the identity in what is inverted. [peer]"""
    sigma: float = 0.004
    """Variance of a feature's every dimension at the start. [peer]"""
    eta: float = 0.2
    """The most that the Gaussians' logits weigh. [peer: one of its values]"""
    rho: float = 0.02
    """Their weight for each frame of the mean count. [peer: one of its values]"""
    update_every: int = 16
    """Frames that are taken in together. [ours]"""

    def __post_init__(self) -> None:
        check_fields(
            self,
            at_least={"update_every": 1},
            positive=("epsilon", "sigma"),
            not_negative=("eta", "rho"),
            shares=("epsilon",),
        )


@dataclass(frozen=True)
class TentSettings:
    """Settings of Tent; raises ``ValueError`` naming the field, the rule and the value."""

    __pydantic_config__: ClassVar[dict[str, Any]] = AS_SECTION

    learning_rate: float = 1e-3
    """Adam's. [peer:CLIPArTT, BATCLIP's CIFAR configuration]"""
    update_every: int = 64
    """Frames an update. [peer:BATCLIP's ImageNet-C configuration; counted in frames ours]"""
    similarity: Literal["plain", "whitened"] = "plain"
    """Of the features that labels come from: cosines as they are [peer], or in the metric of the stream's own [ours].
    """

    def __post_init__(self) -> None:
        check_fields(
            self,
            at_least={"update_every": 1},
            positive=("learning_rate",),
            choices={"similarity": ("plain", "whitened")},
        )


@dataclass(frozen=True)
class SarSettings:
    """Settings of SAR; raises ``ValueError`` naming the field, the rule and the value."""

    __pydantic_config__: ClassVar[dict[str, Any]] = AS_SECTION

    learning_rate: float = 1e-3
    """Of SGD, for 64 images an update. [peer]"""
    momentum: float = 0.9
    """Of SGD. [peer]"""
    rho: float = 0.05
    """Length of the perturbation. [peer]"""
    reliable_entropy: float = 0.4
    """Frames of less entropy are learnt from, as a share of ``ln C``. [peer]"""
    recovery_entropy: float = 0.2
    """Under this running mean, in nats, everything learnt is dropped; 0: never. [peer]"""
    recovery_memory: float = 0.9
    """Share of the running mean that an update keeps. [peer]"""
    skip_last: float = 0.25
    """Share of the normalisation layers, at the tower's end, that stay frozen. [peer: blocks 9 to 11 and the final
    norm]"""
    update_every: int = 64
    """Frames an update. [peer; counted in frames ours]"""

    def __post_init__(self) -> None:
        check_fields(
            self,
            at_least={"update_every": 1},
            positive=("learning_rate", "rho", "reliable_entropy"),
            not_negative=("momentum", "recovery_entropy", "recovery_memory", "skip_last"),
            shares=("momentum", "reliable_entropy", "recovery_memory", "skip_last"),
        )


@dataclass(frozen=True)
class DeyoSettings:
    """Settings of DeYO; raises ``ValueError`` naming the field, the rule and the value."""

    __pydantic_config__: ClassVar[dict[str, Any]] = AS_SECTION

    learning_rate: float = 1e-3
    """Of SGD, for 64 images an update. [peer]"""
    momentum: float = 0.9
    """Of SGD. [peer]"""
    reliable_entropy: float = 0.5
    """Frames of less entropy may be learnt from, as a share of ``ln C``. [peer]"""
    weight_entropy: float = 0.4
    """Frames of this entropy, as a share of ``ln C``, have a weight of 1 beside that of their PLPD. [peer]"""
    least_drop: float = 0.2
    """PLPD that a frame must exceed to be learnt from. [peer]"""
    patches: int = 4
    """Patches along a side. [peer]"""
    skip_last: float = 0.25
    """Share of the normalisation layers, at the tower's end, that stay frozen. [peer: blocks 9 to 11 and the final
    norm]"""
    update_every: int = 64
    """Frames an update. [peer; counted in frames ours]"""

    def __post_init__(self) -> None:
        check_fields(
            self,
            at_least={"update_every": 1, "patches": 1},
            positive=("learning_rate", "reliable_entropy"),
            not_negative=("momentum", "weight_entropy", "least_drop", "skip_last"),
            shares=("momentum", "reliable_entropy", "least_drop", "skip_last"),
        )


@dataclass(frozen=True)
class BatclipSettings:
    """Settings of BATCLIP; raises ``ValueError`` naming the field, the rule and the value."""

    __pydantic_config__: ClassVar[dict[str, Any]] = AS_SECTION

    learning_rate: float = 5e-4
    """AdamW's. [peer]"""
    weight_decay: float = 0.01
    """AdamW's. [peer]"""
    update_every: int = 64
    """Frames an update. [peer; counted in frames ours]"""

    def __post_init__(self) -> None:
        check_fields(self, at_least={"update_every": 2}, positive=("learning_rate",), not_negative=("weight_decay",))


@dataclass(frozen=True)
class ViewSettings:
    """Views as the peers make them; raises ``ValueError`` naming the field, the rule and the value."""

    __pydantic_config__: ClassVar[dict[str, Any]] = AS_SECTION

    views: int = 64
    """The plain one and ``views - 1`` random resized crops with flips. [peer:TPT, RLCF, ZERO, VTE]"""
    confident_share: float = 0.1
    """Share of the views, those of lowest entropy, that count; their number is rounded down. [peer:TPT, RLCF, VTE]"""
    view_min_area: float = 0.08
    """Smallest area of a crop, as a share of the image; the largest is 1. [peer: torchvision's default]"""
    images_at_once: int = 4
    """Images whose views are forwarded together; bounds memory, does not change a label. [ours]"""
    seed: int = 0
    """Mixed into every image's own seed."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            at_least={"views": 1, "images_at_once": 1},
            positive=("confident_share", "view_min_area"),
            shares=("confident_share", "view_min_area"),
        )

    @property
    def confident_views(self) -> int:
        """How many of an image's views count: at least one, rounded down. [peer:TPT]"""
        return max(1, int(self.confident_share * self.views))


@dataclass(frozen=True)
class ZeroSettings(ViewSettings):
    """Settings of ZERO's vote; raises ``ValueError`` naming the field, the rule and the value."""

    confident_share: float = 0.3
    """Share of the views that vote, those of lowest entropy; rounded down. [peer:ZERO]"""


@dataclass(frozen=True)
class VteSettings(ViewSettings):
    """Settings of VTE's mean feature; raises ``ValueError`` naming the field, the rule and the value."""


@dataclass(frozen=True)
class TptNormSettings(ViewSettings):
    """Settings of TPT's loss on norm layers; raises ``ValueError`` naming the field, the rule and the value."""

    learning_rate: float = 1e-3
    """AdamW's. [peers: WATT, CLIPArTT, for norm layers]"""
    weight_decay: float = 0.01
    """AdamW's. [peer:TPT]"""
    inner_steps: int = 1
    """Steps an image. [peer:TPT]"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, at_least={"inner_steps": 1}, positive=("learning_rate",), not_negative=("weight_decay",))


@dataclass(frozen=True)
class RlcfSettings(ViewSettings):
    """Settings of RLCF; raises ``ValueError`` naming the field, the rule and the value."""

    tune: Literal["norm", "full"] = "full"
    """Tuned part of the visual encoder. [peer: full, norm by a flag]"""
    group_size: int = 3
    """Candidates a view, at most the number of classes. [peer]"""
    inner_steps: int = 3
    """Steps an image. [peer]"""
    learning_rate: float | None = None
    """AdamW's; none: 1e-5 for ``full`` [peer], 1e-3 for ``norm`` [peers: WATT, CLIPArTT]."""
    weight_decay: float = 5e-4
    """AdamW's. [peer]"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(
            self,
            choices={"tune": ("norm", "full")},
            at_least={"group_size": 2, "inner_steps": 1},
            not_negative=("weight_decay",),
            optional_positive=("learning_rate",),
        )

    @property
    def step_size(self) -> float:
        """The learning rate in use."""
        return self.learning_rate if self.learning_rate is not None else _LEARNING_RATES[self.tune]


@dataclass(frozen=True)
class TdaSettings(ViewSettings):
    """Settings of TDA; raises ``ValueError`` naming the field, the rule and the value."""

    views: int = 1
    """The plain one and ``views - 1`` random resized crops with flips. [peer: 1 for cross-domain sets, 64 for
    ImageNet's variants]"""
    positive_shots: int = 3
    """Entries of a class in the positive cache. [peer]"""
    positive_weight: float = 2.0
    """Weight of the positive cache, alpha. [peer:ImageNet]"""
    positive_sharpness: float = 5.0
    """Its sharpness, beta. [peer:ImageNet]"""
    negative_shots: int = 2
    """Entries of a class in the negative cache. [peer]"""
    negative_weight: float = 0.117
    """Its weight, alpha. [peer]"""
    negative_sharpness: float = 1.0
    """Its sharpness, beta. [peer]"""
    entropy_from: float = 0.2
    """Least entropy over log2 C that the negative cache takes. [peer]"""
    entropy_to: float = 0.5
    """The most. [peer]"""
    mask_from: float = 0.03
    """Least probability that a negative entry speaks against. [peer]"""
    mask_to: float = 1.0
    """The most. [peer]"""

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = ("positive_weight", "positive_sharpness", "negative_weight", "negative_sharpness")
        bounds = ("entropy_from", "entropy_to", "mask_from", "mask_to")
        check_fields(
            self,
            at_least={"positive_shots": 1, "negative_shots": 1},
            not_negative=(*weights, *bounds),
            shares=bounds,
        )
        for low, high in (("entropy_from", "entropy_to"), ("mask_from", "mask_to")):
            if not getattr(self, low) < getattr(self, high):
                raise ValueError(f"{low} must be < {high}, {getattr(self, high)}, got {getattr(self, low)}")
