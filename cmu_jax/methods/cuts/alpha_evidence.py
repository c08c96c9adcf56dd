"""Tests whether the chosen alpha helps, or whether the model stays as it is.

The choice is measured on images that did not make it (`cross_fitting`), with
its spread over bootstrap resamples.

References:
  Labels that name a wrong class as a measure of accuracy: learning from
  complementary labels, Ishida et al., arXiv 1705.07541.
"""

import statistics
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from cmu_jax.core.types import Info
from cmu_jax.methods.cuts import alpha_rules

# A collapsed network scores -1e6, which would rule every mean over folds.
COLLAPSED = 3.0


class FoldEvidence(NamedTuple):
  """Scores of the held-out images: resamples, folds, alphas.

  Attributes:
    score: J (label noise), or the attack success rate (poison).
    rate: how often the image's corrupted label is predicted (label noise), or
      the target class on images without the trigger (poison).
  """

  score: Float[np.ndarray, 'b f a']
  rate: Float[np.ndarray, 'b f a']


class SafeChoice(NamedTuple):
  """A choice with its reasons.

  Attributes:
    choice: alpha 0.0 and `selected` False if the rule abstains.
    record: numbers and lists, as JSON has them.
  """

  choice: alpha_rules.AlphaChoice
  record: Info


class GainEstimate(NamedTuple):
  """An estimate, its bootstrap standard deviation, its one-sided lower end."""

  estimate: float
  deviation: float
  low: float


def out_of_fold_gain(
  score: Float[np.ndarray, '*b f a'], value: Float[np.ndarray, '*b f a']
) -> Float[np.ndarray, '*b']:
  """The gain over alpha = 0 of a choice by the other folds, mean over folds.

  Args:
    score: chooses alpha for a fold by its mean over the *other* folds.
    value: is compared with its first grid point, on the fold itself.
  """
  # A fold takes no part in its own choice: the maximum over many alphas cannot
  # flatter the gain.
  others = score.sum(-2, keepdims=True) - score
  chosen = others.argmax(-1)[..., None]
  gains = np.take_along_axis(value, chosen, -1)[..., 0] - value[..., 0]
  return gains.mean(-1)


def estimate_gain(
  gain: Float[np.ndarray, 'b'], confidence: float
) -> GainEstimate:
  """Estimates a gain (row 0) with its bootstrap spread and its lower end."""
  deviation = float(gain[1:].std()) if len(gain) > 1 else 0.0
  # A normal quantile of the spread, not a quantile of the resamples: these
  # repeat images, which shifts penalties on class counts off centre.
  reach = statistics.NormalDist().inv_cdf(confidence) * deviation
  return GainEstimate(float(gain[0]), deviation, float(gain[0]) - reach)


def _scale_by_deviation(gain: Float[np.ndarray, 'b']) -> Float[np.ndarray, 'b']:
  deviation = gain[1:].std()
  return gain / deviation if deviation > 0 else np.zeros_like(gain)


def judge_noise(
  alphas: Float[np.ndarray, 'a'],
  evidence: FoldEvidence,
  factor: int | None = None,
  confidence: float = 0.8,
) -> SafeChoice:
  """Chooses the alpha that maximizes J_cf, or abstains if the gain is unsure.

  The evidence has two gains over alpha = 0, each divided by its bootstrap
  deviation: the gain in J, see `out_of_fold_gain`; and, at alpha_hat, the fall
  of the rate at which corrupted labels of unseen images are predicted. The rule
  abstains unless the lower end of their sum is above 0.

  A step that only fits the images at hand passes about as rarely as
  1 - confidence says; .8 suits a user to whom a loss weighs four times a gain
  forgone. Limits: J is no accuracy, so a real gain in J may cost accuracy.
  Under other than symmetric noise, an avoided label need not be a recovered
  truth. The fold vectors come from fewer images than the vector that is used,
  and intervals leave out the choice of the proxy. With some hundred images the
  rule forgoes many repairs that would help.

  Args:
    alphas: the grid, 0 first.
    evidence: J and rates of corrupted labels predicted.
    factor: C - 1 under symmetric noise, None under any other.
    confidence: one-sided, of all lower ends.

  Returns:
    The choice, and the record: J_cf, the gains in J with the given alpha_hat
    (`fixed`) and out of fold (`difference`), `accuracy_gain` (symmetric noise
    only), and the 95 % interval of alpha_hat over resamples.
  """
  score = np.maximum(evidence.score, -COLLAPSED)
  mean = score.mean(1)
  position = int(mean[0].argmax())
  gain = out_of_fold_gain(score, score)
  # J made the choice and no label did: the rate needs no other fold.
  rate = evidence.rate.mean(1)
  fall = rate[:, 0] - rate[:, position]
  fixed = estimate_gain(mean[:, position] - mean[:, 0], confidence)
  difference = estimate_gain(gain, confidence)
  label_fall = estimate_gain(fall, confidence)
  total = estimate_gain(
    _scale_by_deviation(gain) + _scale_by_deviation(fall), confidence
  )
  selected = position > 0 and total.low > 0
  record = {
    'J_cf': mean[0].tolist(),
    'alpha_hat': float(alphas[position]),
    'alpha_interval': _interval(alphas[mean[1:].argmax(1)]),
    'fixed': fixed.estimate,
    'fixed_low': fixed.low,
    'difference': difference.estimate,
    'difference_low': difference.low,
    'corrupted_label_fall': label_fall.estimate,
    'corrupted_label_fall_low': label_fall.low,
    # Under symmetric noise a wrong prediction hits a uniformly drawn wrong
    # label once in C - 1 times: the fall is an unbiased estimate of accuracy.
    'accuracy_gain': None if factor is None else factor * label_fall.estimate,
    'accuracy_gain_low': None if factor is None else factor * label_fall.low,
    'evidence': total.estimate,
    'evidence_deviation': total.deviation,
    'evidence_low': total.low,
    'confidence': confidence,
  }
  return _safe_choice(alphas, position if selected else None, record)


def judge_poison(
  alphas: Float[np.ndarray, 'a'], evidence: FoldEvidence, threshold: float
) -> SafeChoice:
  """Chooses the smallest alpha that disarms unseen triggers.

  The attack success is that of triggered proxy images that the vector was not
  fitted to, mean over folds, see `alpha_rules.choose_smallest_below`. The rule
  abstains if the share of the target class among predictions on untriggered
  images falls below half of its value at alpha = 0.

  Args:
    alphas: the grid, without 0.
    evidence: attack success and share of the target class, at 0 and then at
      every point of the grid.
    threshold: largest attack success that qualifies.
  """
  attack, share = evidence.score.mean(1)[:, 1:], evidence.rate.mean(1)
  choice = alpha_rules.choose_smallest_below(alphas, attack[0], threshold)
  position = choice.position
  target_share = None if position is None else float(share[0, position + 1])
  # No label is needed to see that the attack went together with its class. A
  # class that is merely hurt, or confused with another, is not noticed.
  alive = target_share is not None and target_share >= share[0, 0] / 2
  resampled = [
    alpha_rules.choose_smallest_below(alphas, row, threshold)
    for row in attack[1:]
  ]
  record = {
    'proxy_attack_success_rate_cf': attack[0].tolist(),
    'target_share_cf': share[0, 1:].tolist(),
    'target_share_before': float(share[0, 0]),
    'target_share_after': target_share,
    'alpha_hat': choice.alpha if choice.selected else None,
    'alpha_interval': _interval(
      np.array([choice.alpha for choice in resampled if choice.selected])
    ),
  }
  return _safe_choice(alphas, position if alive else None, record)


def _interval(alphas: Float[np.ndarray, 'b']) -> list[float] | None:
  """The 95 % interval of a choice over resamples, made of grid points."""
  if not len(alphas):
    return None
  ends = np.quantile(alphas, (0.025, 0.975), method='nearest')
  return [float(end) for end in ends]


def _safe_choice(
  alphas: Float[np.ndarray, 'a'], position: int | None, record: Info
) -> SafeChoice:
  choice = alpha_rules.ABSTENTION
  if position is not None:
    choice = alpha_rules.AlphaChoice(float(alphas[position]), position, True)
  return SafeChoice(choice, {'selected': choice.selected, **record})


def abstain(reason: str) -> SafeChoice:
  """Abstains because nothing could be measured."""
  record = {'selected': False, 'reason': reason}
  return SafeChoice(alpha_rules.ABSTENTION, record)


def facts(result: SafeChoice) -> Info:
  """The cells of a table: alpha, whether it was selected, its interval."""
  low, high = result.record.get('alpha_interval') or (None, None)
  return {
    'alpha': result.choice.alpha,
    'selected': result.choice.selected,
    'alpha_low': low,
    'alpha_high': high,
  }
