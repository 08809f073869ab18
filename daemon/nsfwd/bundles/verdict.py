"""From a model's scores to groups and a verdict. Pure Python: no numpy, no file, no clock.

It runs in the server process once for every image, so all that depends on the bundle alone (indexes, keys, tiers) is
worked out beforehand in ``Judge``. Scores that are not probabilities never become a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import msgspec

from nsfwd.bundles.bundle_store import Bundle
from nsfwd.bundles.manifest import FrameSampling, Manifest, Output
from nsfwd.bundles.policy import Policy
from nsfwd.errors import CodedError
from nsfwd.protocol.messages import Because, Judgement, Override

RANGE_TOLERANCE = 1e-3
"""How far outside 0..1 a score may lie: what low precisions leave; such a score is then moved to 0 or 1."""

SUM_TOLERANCE = 1e-2
"""How far from 1 the sum of a softmax may lie: five labels rounded to bf16 (2^-8 relative) stay below it."""


Probabilities = Sequence[float]
"""A probability for each label, in the bundle's order, unrounded."""

ModelOutput = Probabilities
"""What one model says of one view. Models of another kind will have a type of their own beside it."""

Outputs = Mapping[str, ModelOutput]
"""Model name -> what it says. Models that were not asked are not in it."""


def check_scores(scores: Sequence[float], activation: Literal["softmax", "sigmoid"]) -> tuple[float, float]:
    """Refuse scores that are no probabilities.

    Args:
        scores: one per label.
        activation: a softmax must sum to 1 as well.

    Returns:
        The lowest and the highest.

    Raises:
        CodedError: ``bad_scores``. The model's or the device's fault; a retry does not help.
    """
    total = sum(scores)
    if not math.isfinite(total):  # any NaN or infinity ends up in the sum, wherever it stands
        raise CodedError("bad_scores", "the model's output has a score that is not finite")
    low, high = (min(scores), max(scores)) if scores else (-1.0, -1.0)
    if low < -RANGE_TOLERANCE or high > 1.0 + RANGE_TOLERANCE:
        raise CodedError("bad_scores", "the model's output has a score outside 0..1")
    if activation == "softmax" and abs(total - 1.0) > SUM_TOLERANCE:
        raise CodedError("bad_scores", f"the model's output is a softmax that sums to {total:.4f}")
    return low, high


class _Reached(msgspec.Struct, gc=False):
    """What one model's policy makes of its scores."""

    tier: str
    alarm: bool
    rank: int
    because: Because


class Terms(NamedTuple):
    """What one model's scores are judged by: a bundle's, or those of scores that were kept.

    Attributes:
        name: the model's short name.
        model: its identity.
        output: what its scores are.
    """

    name: str
    model: str
    output: Output
    policy: Policy

    @classmethod
    def of(cls, bundle: Bundle) -> Terms:
        """Those a bundle is served with."""
        return cls(bundle.name, bundle.model_identity, bundle.manifest.output, bundle.policy)


class _Model:
    """One model's indexes, worked out once."""

    __slots__ = ("_falling", "_groups", "_shown", "activation", "floor", "labels", "name", "width")

    def __init__(self, terms: Terms) -> None:
        output, policy = terms.output, terms.policy
        place = {label: index for index, label in enumerate(output.labels)}
        self.name = terms.name
        self.width = len(output.labels)
        self.activation = output.activation
        self._shown = tuple((label, place[label]) for label in output.labels if label not in output.hidden)
        self.labels = tuple(label for label, _ in self._shown)
        self._groups = tuple((group, tuple(place[one] for one in names)) for group, names in policy.groups.items())
        self.floor = policy.tiers[0].name if policy.tiers else ""
        self._falling = tuple(
            (rank, tier.name, tier.group or "", tier.threshold or 0.0, tier.alarm)
            for rank, tier in reversed(tuple(enumerate(policy.tiers)))
            if rank
        )

    def decide(self, views: Sequence[View], sampling: FrameSampling) -> tuple[ModelOutput, View]:
        """What this model says of several views together, and the view that decided (of a mean the worst one)."""
        badness = []
        for view in views:
            values = self.values(view.results[self.name])
            badness.append(_badness(self.reach(self.shown(values), self.grouped(values))))
        worse: dict[int, int] = {}
        for place, view in enumerate(views):
            kept = worse.get(view.frame)
            if kept is None or badness[place] > badness[kept]:
                worse[view.frame] = place
        ranking = sorted(worse.values(), key=badness.__getitem__, reverse=True)
        decisive = views[ranking[min(sampling.quorum, len(ranking)) - 1]]
        if sampling.combine == "mean" and len(ranking) > 1:
            return _mean([views[place].results[self.name] for place in ranking]), decisive
        return decisive.results[self.name], decisive

    def values(self, scores: Probabilities) -> Probabilities:
        """The scores, checked, and inside 0..1."""
        if len(scores) != self.width:
            raise CodedError("bad_scores", f"the model returned {len(scores)} scores for {self.width} labels")
        low, high = check_scores(scores, self.activation)
        if low < 0.0 or high > 1.0:
            return [min(1.0, max(0.0, score)) for score in scores]
        return scores

    def shown(self, values: Sequence[float]) -> dict[str, float]:
        """Label -> score, without the hidden ones."""
        if len(self._shown) == self.width:
            return dict(zip(self.labels, values, strict=True))
        return {label: values[index] for label, index in self._shown}

    def grouped(self, values: Sequence[float]) -> dict[str, float]:
        """Group -> summed score, at most 1."""
        sums = {}
        for group, members in self._groups:
            total = 0.0
            for index in members:
                total += values[index]
            sums[group] = total if total < 1.0 else 1.0
        return sums

    def reach(self, shown: dict[str, float], groups: dict[str, float]) -> _Reached:
        """The highest tier whose threshold is reached, else the floor and the tier that came closest."""
        if not self.floor:
            top = max(shown, key=shown.__getitem__)
            return _Reached(top, False, 0, Because(self.name, top, shown[top], None))
        nearest, its_threshold, distance = "", None, math.inf
        for rank, name, group, threshold, alarm in self._falling:
            missing = threshold - groups[group]
            if missing <= 0.0:
                return _Reached(name, alarm, rank, Because(self.name, group, groups[group], threshold))
            if missing <= distance:
                nearest, its_threshold, distance = group, threshold, missing
        nearest = nearest or max(groups, key=groups.__getitem__)
        return _Reached(self.floor, False, 0, Because(self.name, nearest, groups[nearest], its_threshold))


class View(msgspec.Struct):
    """One frame on one background, scored.

    Attributes:
        frame: its number in the file.
        background: what transparent pixels lie on; empty where there are none.
        results: of the models that were asked.
    """

    frame: int
    background: str
    results: Outputs


_Badness = tuple[bool, int, float]
"""How one judgement compares with another: an alarm outranks none, then the higher tier, then the wider margin."""


class Judge:
    """Turns the scores of a fixed set of bundles into judgements.

    Args:
        bundles: model name -> bundle, or the terms alone; the first one's top label is the image's label.
    """

    def __init__(self, bundles: Mapping[str, Bundle | Terms]) -> None:
        every = [bundle if isinstance(bundle, Terms) else Terms.of(bundle) for bundle in bundles.values()]
        self._models = tuple(_Model(terms) for terms in every)
        self._identities = {terms.name: terms.model for terms in every}
        # Several bundles may share a policy: it is told once.
        self._policy = ",".join(dict.fromkeys(terms.policy.identity for terms in every))

    def judge(self, results: Outputs) -> Judgement:
        """Judge one image.

        Args:
            results: of all models, or of those that were asked; of one at least.

        Returns:
            The judgement. Over several models an alarm outranks none, then the higher tier, then the earlier model.

        Raises:
            CodedError: ``bad_scores`` when a model's output is not a probability for each label.
        """
        scores, groups, verdicts = {}, {}, {}
        worst: _Reached | None = None
        for model in self._models:
            name = model.name
            if name not in results:
                continue
            values = model.values(results[name])
            shown = scores[name] = model.shown(values)
            sums = groups[name] = model.grouped(values)
            reached = model.reach(shown, sums)
            verdicts[name] = reached.tier
            if worst is None or (reached.alarm, reached.rank) > (worst.alarm, worst.rank):
                worst = reached
        assert worst is not None
        first = next(iter(scores.values()))
        label = max(first, key=first.__getitem__)
        return Judgement(
            scores,
            groups,
            verdicts,
            worst.tier,
            worst.alarm,
            label,
            first[label],
            worst.because,
            self._identities if len(scores) == len(self._models) else {name: self._identities[name] for name in scores},
            self._policy,
        )

    def judge_views(self, views: Sequence[View], samplings: Mapping[str, FrameSampling]) -> tuple[Judgement, View]:
        """Judge several views of one image together.

        Each model judges those that it was asked about. Of a frame on two backgrounds the worse counts. Then the worst
        frame decides, or the one that completes the quorum, or the mean of all. Where a bundle has no tiers
        none is worse, and the first view counts.

        Args:
            samplings: model name -> how its frames are combined.

        Returns:
            The judgement, and the view that decided (of a mean the worst one).

        Raises:
            CodedError: ``bad_scores`` when any view's scores are no probabilities.
        """
        results: dict[str, ModelOutput] = {}
        decisive: dict[str, View] = {}
        for model in self._models:
            if seen := [view for view in views if model.name in view.results]:
                results[model.name], decisive[model.name] = model.decide(seen, samplings[model.name])
        judgement = self.judge(results)
        return judgement, decisive[judgement.because.model]


def _badness(reached: _Reached) -> _Badness:
    because = reached.because
    return reached.alarm, reached.rank, 0.0 if because.threshold is None else because.score - because.threshold


def _mean(outputs: Sequence[Probabilities]) -> list[float]:
    return [sum(column) / len(outputs) for column in zip(*outputs, strict=True)]


def judge(results: Outputs, bundles: Mapping[str, Bundle]) -> Judgement:
    """Judge a single image without keeping a ``Judge``; see there for arguments and errors."""
    return Judge(bundles).judge(results)


class Borders(NamedTuple):
    """Where a policy's verdict changes, in places of labels: what a reduced precision may get wrong.

    Attributes:
        thresholds: (labels that are summed, the sum at which the verdict changes).
        contest: labels of which the highest is the verdict; empty where tiers decide.
    """

    thresholds: tuple[tuple[tuple[int, ...], float], ...]
    contest: tuple[int, ...]


def borders(bundle: Bundle) -> Borders:
    """Where the verdict of a bundle changes under the policy it is served with."""
    output, policy = bundle.manifest.output, bundle.policy
    place = {label: index for index, label in enumerate(output.labels)}
    thresholds = tuple(
        (tuple(place[label] for label in policy.groups[tier.group]), tier.threshold)
        for tier in policy.tiers
        if tier.group is not None and tier.threshold is not None
    )
    shown = tuple(place[label] for label in output.labels if label not in output.hidden)
    return Borders(thresholds, () if policy.tiers else shown)


def verdicts(bundles: Iterable[Bundle | Terms]) -> dict[str, bool]:
    """Every verdict an image can get under the policies of these bundles -> whether one of them calls it an alarm."""
    found: dict[str, bool] = {}
    for bundle in bundles:
        _, _, output, policy = bundle if isinstance(bundle, Terms) else Terms.of(bundle)
        labels = (label for label in output.labels if label not in output.hidden)
        tiers = [(tier.name, tier.alarm) for tier in policy.tiers] or [(label, False) for label in labels]
        for name, alarm in tiers:
            found[name] = found.get(name, False) or alarm
    return found


def overruled(judgement: Judgement, override: Override, alarms: Mapping[str, bool]) -> Judgement:
    """Let a person's decision win over the model's; scores, groups and each model's own verdict stay what they are.

    Args:
        alarms: of ``verdicts``. A verdict that is not in there is an alarm: nobody can say that it is none.
    """
    alarm = alarms.get(override.verdict, True)
    return replace(judgement, verdict=override.verdict, alarm=alarm, override=override)


def golden_drift(manifest: Manifest, file: str, scores: Sequence[float]) -> float:
    """The largest difference of any score of a golden picture from its pinned one.

    Raises:
        CodedError: ``bad_scores`` when the scores are no probabilities at all.
        KeyError: there is no such golden; the caller's defect.
    """
    check_scores(scores, manifest.output.activation)
    pinned = {golden.file: golden.scores for golden in manifest.goldens}[file]
    return max(abs(pinned[label] - score) for label, score in zip(manifest.output.labels, scores, strict=True))
