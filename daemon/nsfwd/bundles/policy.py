"""What a site makes of scores: groups of labels, and tiers with thresholds. Pure data.

A policy is separate from the model that scores: a site changes it in its configuration, and that never changes the
model's identity. This module knows labels only as words; it has no scores, no files and no framework.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from nsfwd.errors import BundleError

IDENTITY_DIGITS = 12
"""Hex digits of a digest that are shown: 48 bits tell apart more policies and models than a site will ever have."""


class Tier(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One level of a verdict.

    Attributes:
        name: the word that becomes the verdict.
        group: the group whose summed score is compared; None for the floor.
        threshold: the tier is reached at this score or above; None for the floor.
        alarm: a verdict that wants a person's attention.
    """

    name: str
    group: str | None = None
    threshold: float | None = None
    alarm: bool = False


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Groups of labels, and tiers in rising order. The first tier is the floor: reached by every image.

    Without tiers the top label itself is the verdict, and never an alarm.
    """

    name: str
    groups: dict[str, tuple[str, ...]]
    tiers: tuple[Tier, ...] = ()

    @property
    def identity(self) -> str:
        """``name@digest``; changes whenever a group, a threshold, a tier or an alarm does."""
        spelled = msgspec.json.encode(self, order="sorted")
        return f"{self.name}@{hashlib.sha256(spelled).hexdigest()[:IDENTITY_DIGITS]}"

    @classmethod
    def default_for(cls, labels: Sequence[str]) -> Policy:
        """The policy of a bundle that has none: one group per label, its top label as the verdict, never an alarm."""
        return cls(name="labels", groups={label: (label,) for label in labels})


class PolicyChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a site says of a bundle's policy: all of it anew, or some thresholds and alarms.

    Attributes:
        name: of the policy that comes of it.
        groups, tiers: in place of the bundle's; None keeps them.
        thresholds: tier -> its threshold.
        alarms: the tiers that are alarms, and no others; None keeps them.
    """

    name: str
    groups: dict[str, tuple[str, ...]] | None = None
    tiers: tuple[Tier, ...] | None = None
    thresholds: dict[str, float] = {}
    alarms: tuple[str, ...] | None = None

    def apply(self, policy: Policy, labels: Sequence[str]) -> Policy:
        """Return the policy that comes of ``policy``, checked.

        Raises:
            BundleError: as ``check_policy``; or a threshold or alarm is for a tier that does not exist.
        """
        tiers = policy.tiers if self.tiers is None else self.tiers
        for name in (*self.thresholds, *(self.alarms or ())):
            if name not in {tier.name for tier in tiers}:
                there = ", ".join(tier.name for tier in tiers) or "none"
                raise BundleError(f"policy: there is no tier {name!r} (there: {there})")
        changed = Policy(
            name=self.name,
            groups=policy.groups if self.groups is None else self.groups,
            tiers=tuple(self._changed(tier) for tier in tiers),
        )
        check_policy(changed, labels)
        return changed

    def _changed(self, tier: Tier) -> Tier:
        return msgspec.structs.replace(
            tier,
            threshold=self.thresholds.get(tier.name, tier.threshold),
            alarm=tier.alarm if self.alarms is None else tier.name in self.alarms,
        )


def check_policy(policy: Policy, labels: Sequence[str]) -> None:
    """Refuse a policy that does not fit the labels or contradicts itself.

    Raises:
        BundleError: one line that names the group or tier to mend; the operator's fault, no retry helps.
    """
    if not policy.name or "@" in policy.name:
        raise BundleError(f"policy: the name {policy.name!r} must be a word without '@'")
    if not policy.groups:
        raise BundleError("policy: no groups; leave the whole policy out to get one group per label")
    for group, members in policy.groups.items():
        if not members or len(set(members)) != len(members):
            raise BundleError(f"policy: group {group!r} must name at least one label and none twice")
        for label in members:
            if label not in labels:
                raise BundleError(
                    f"policy: group {group!r} names {label!r}, which is not a label of this model ({', '.join(labels)})"
                )
    _check_tiers(policy)


def _check_tiers(policy: Policy) -> None:
    reached: dict[str, float] = {}
    names = [tier.name for tier in policy.tiers]
    if len(set(names)) != len(names) or not all(names):
        raise BundleError("policy: tiers need names, and each its own")
    for rank, tier in enumerate(policy.tiers):
        if rank == 0:
            if tier.group is not None or tier.threshold is not None or tier.alarm:
                raise BundleError(f"policy: the first tier {tier.name!r} is the floor: no group, threshold or alarm")
            continue
        if tier.group is None or tier.threshold is None:
            raise BundleError(f"policy: tier {tier.name!r} needs a group and a threshold")
        if tier.group not in policy.groups:
            raise BundleError(f"policy: tier {tier.name!r} names the group {tier.group!r}, which does not exist")
        if not 0.0 < tier.threshold <= 1.0:
            raise BundleError(f"policy: tier {tier.name!r} has threshold {tier.threshold}; it must be in (0, 1]")
        if tier.threshold <= reached.get(tier.group, 0.0):
            raise BundleError(f"policy: tier {tier.name!r} must have a higher threshold than the tier below it")
        reached[tier.group] = tier.threshold
