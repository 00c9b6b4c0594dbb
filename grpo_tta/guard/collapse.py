"""How an adapted encoder that went wrong is told from one that works: by the frozen encoder on the same images. [ours]

Two statistics, both 0 for an encoder that equals the frozen one: `lost_diversity` of the predictions, and the `regret`:
how much more often the adapted labels are wrong by the frozen encoder's own belief, its bias divided out.
"""

import math

import torch
from torch import Tensor

from grpo_tta.owners import of_owner
from grpo_tta.policy import entropy
from grpo_tta.rewards import kept_after, marginal_ratio, trust

_BIAS_FRAMES = 1000
"""Memory of the frozen encoder's bias."""
_BIAS_PRIOR = 64
"""Frames that the bias known before weighs against those seen since the guard was cleared. An adapted encoder gives up
labels that only bias made likely, within some hundred frames: a bias that is learnt no faster makes that look wrong."""
_ENOUGH_CLASSES = 20.0
"""Classes that a stream must show for its bias to be divided out whole."""
_LEAST_ERROR = 0.3
"""Expected error under which the regret is measured against this one: few frames would decide otherwise."""


def entropy_ratio(marginal: Tensor) -> float:
    """Entropy of probabilities ``[C]`` over ln C, in [0, 1]."""
    return float(entropy(marginal)) / math.log(max(len(marginal), 2))


def lost_diversity(marginals: Tensor, unsure: Tensor) -> float:
    """What the adapted predictions (row 1) have lost against the frozen ones (row 0), over ln C, of mean probabilities
    ``[2, C]`` and mean entropies ``[2]`` in nats: the smaller of the loss of the mean prediction's entropy and of the
    mutual information of frame and class. An encoder that only spreads each frame's prediction less, or more, tells
    frames apart as before, and has lost nothing."""
    spread = [float(entropy(marginal)) for marginal in marginals]
    told = [own - float(each) for own, each in zip(spread, unsure, strict=True)]
    return min(spread[0] - spread[1], told[0] - told[1]) / math.log(max(marginals.shape[1], 2))


def errors(frozen: Tensor, adapted: Tensor, bias: Tensor, owner: Tensor) -> Tensor:
    """The probability that the frozen encoder's label, and the adapted one's, is wrong, ``[B, 2]``.

    Of probabilities ``[B, C]``, by one belief: the frozen ones divided by the ``bias`` ``[S, C]`` of their stream,
    ``owner`` ``[B]``, as far as that is known.
    """
    belief = frozen / of_owner(marginal_ratio(bias) ** trust(bias, _ENOUGH_CLASSES)[:, None], owner)
    belief = belief / belief.sum(1, keepdim=True)
    labels = torch.stack([frozen.argmax(1), adapted.argmax(1)], 1)
    return 1 - belief.gather(1, labels)


def regret(mean_errors: Tensor) -> float:
    """Of mean errors ``[2]``: the adapted labels' less the frozen ones', as a share of the latter."""
    frozen, adapted = mean_errors.tolist()
    return float(adapted - frozen) / max(frozen, _LEAST_ERROR)


def learnt_bias(bias: Tensor, mean: Tensor, frames: int, seen: int) -> Tensor:
    """The bias ``[C]`` after ``frames`` frames of mean frozen probabilities ``mean``, ``seen`` frames having been since
    it was last cleared, these included: a mean of those few, and a running mean when they are many."""
    rate = max(1 - kept_after(frames, _BIAS_FRAMES), frames / (seen + _BIAS_PRIOR))
    return torch.lerp(bias, mean, rate)
