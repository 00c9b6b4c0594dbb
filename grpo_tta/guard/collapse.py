"""How an adapted encoder that went wrong is told from one that works: by the frozen encoder on the same images. [ours]

Two signals, of pairs of predictions, so that a stream of few classes cancels out, and 0 for an encoder that equals the
frozen one: `LostDiversity` of the predictions, and `Regret`: how much more often the adapted labels are wrong by the
frozen encoder's own belief, its bias divided out.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from grpo_tta.guard.signal import Seen, Signal, number_of, tensor_of
from grpo_tta.owners import of_owner
from grpo_tta.policy import entropy
from grpo_tta.rewards import kept_after, marginal_ratio, trust
from grpo_tta.types import State

_BIAS_FRAMES = 1000
"""Memory of the frozen encoder's bias."""
_BIAS_PRIOR = 64
"""Frames that the bias known before weighs against those seen since the guard was cleared; after a shift it was another
input's, and weighs nothing. An adapted encoder gives up labels that only bias made likely, within some hundred frames,
and one that has learnt much already at once: a bias that is learnt no faster makes that look wrong."""
_ENOUGH_CLASSES = 20.0
"""Classes that a stream must show for its bias to be divided out whole."""
_LEAST_ERROR = 0.3
"""Expected error under which the regret is measured against this one: few frames would decide otherwise."""
_REGRET_PROBES = 4
"""Memory of the regret."""
_BIAS_TYPE = torch.float16


class LostDiversity(Signal):
    """`lost_diversity` over the last ``collapse_probes`` probes. Columns: ``unsure`` ``[2]``, mean entropies of frozen
    and adapted predictions, and the sums of the probe under way."""

    name = "collapse"
    cause = "collapse"
    message = "the adapted predictions lost diversity against the frozen encoder's"
    columns = ("unsure", "unsure_sums")
    sums = ("unsure_sums",)

    @property
    def threshold(self) -> float:
        """``collapse_threshold``, over ln C."""
        return self.settings.collapse_threshold

    def begun(self) -> State:
        """Nothing known."""
        return {"unsure": torch.zeros(2), "unsure_sums": torch.zeros(2)}

    def of_frames(self, seen: Seen, states: Sequence[State]) -> dict[str, Tensor]:
        """Entropies ``[B, 2]`` in nats."""
        del states
        return {"unsure_sums": torch.stack([entropy(seen.frozen), entropy(seen.adapted)], 1)}

    def after_probe(self, means: Mapping[str, Tensor], state: State) -> State:
        """A mean of few probes, a running mean of more."""
        rate = 1.0 / min(number_of(state, "probes"), self.settings.collapse_probes)
        return {**self.own(state), "unsure": torch.lerp(tensor_of(state, "unsure"), means["unsure_sums"], rate)}

    def statistic(self, state: State) -> float | None:
        """Over ln C; ``None`` before ``collapse_probes`` probes."""
        if number_of(state, "probes") < self.settings.collapse_probes:
            return None
        return lost_diversity(tensor_of(state, "marginals").float(), tensor_of(state, "unsure"))

    def cleared(self, state: State) -> State:
        """Nothing known."""
        return self.begun()


class Regret(Signal):
    """`regret` over the last four probes. Columns: ``bias`` ``[C]`` float16, the frozen encoder's; ``bias_prior``, the
    frames that what was known of it before counts; ``mistakes`` ``[2]``, mean `errors`, and the sums of the probe under
    way."""

    name = "regret"
    cause = "collapse"
    message = "the adapted labels are wrong more often than the frozen ones by the frozen encoder's belief"
    columns = ("bias", "bias_prior", "mistakes", "mistake_sums")
    sums = ("mistake_sums",)

    @property
    def threshold(self) -> float:
        """``regret_threshold``, a share."""
        return self.settings.regret_threshold

    def begun(self) -> State:
        """No bias."""
        classes = len(self.class_vectors)
        return {"bias": torch.full((classes,), 1.0 / classes, dtype=_BIAS_TYPE), **self._restarted()}

    def of_frames(self, seen: Seen, states: Sequence[State]) -> dict[str, Tensor]:
        """Of each frame, ``[B, 2]``."""
        bias = torch.stack([tensor_of(state, "bias") for state in states]).float()
        return {"mistake_sums": errors(seen.frozen, seen.adapted, bias, seen.owner)}

    def after_probe(self, means: Mapping[str, Tensor], state: State) -> State:
        """The mean, and the bias that the next frames are judged by."""
        probes, frames = number_of(state, "probes"), self.settings.probe_frames
        seen = probes * frames + number_of(state, "bias_prior")
        bias = learnt_bias(tensor_of(state, "bias").float(), means["marginal_sums"][0], frames, seen)
        mistakes = torch.lerp(tensor_of(state, "mistakes"), means["mistake_sums"], 1.0 / min(probes, _REGRET_PROBES))
        return {**self.own(state), "bias": bias.to(_BIAS_TYPE), "mistakes": mistakes}

    def statistic(self, state: State) -> float | None:
        """A share; ``None`` before four probes."""
        return regret(tensor_of(state, "mistakes")) if number_of(state, "probes") >= _REGRET_PROBES else None

    def cleared(self, state: State) -> State:
        """The bias stays."""
        return {**self.own(state), **self._restarted()}

    def anew(self, state: State) -> State:
        """The next frames make the bias."""
        return {**self.own(state), "bias_prior": 0}

    @staticmethod
    def _restarted() -> State:
        return {"bias_prior": _BIAS_PRIOR, "mistakes": torch.zeros(2), "mistake_sums": torch.zeros(2)}


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
    """The bias ``[C]`` after ``frames`` frames of mean frozen probabilities ``mean``, of ``seen`` frames that it is of,
    these included: a mean of those few, and a running mean when they are many."""
    return torch.lerp(bias, mean, max(1 - kept_after(frames, _BIAS_FRAMES), frames / seen))
