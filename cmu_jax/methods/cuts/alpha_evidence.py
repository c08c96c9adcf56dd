"""Whether to take the chosen alpha, or to leave the model as it is.

What unseen proxy images say (`safe`) is weighed here: the choice is measured on
images that did not make it, with its spread over bootstrap resamples.

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

# A collapsed network scores -1e6: far enough to lose, too far for a mean.
COLLAPSED = 3.0


class FoldEvidence(NamedTuple):
  """What the images that judge say: resamples, folds, alphas.

  Attributes:
    score: J (label noise), or the attack success rate (poison).
    rate: how often the image's corrupted label is predicted (label noise), or
      the target class on images without the trigger (poison).
  """

  score: Float[np.ndarray, 'b f a']
  rate: Float[np.ndarray, 'b f a']


class SafeChoice(NamedTuple):
  """A choice and why.

  Attributes:
    choice: alpha 0.0 and `selected` False where the rule abstains.
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
  """What choosing by some folds gains on the others, over alpha = 0.

  For each fold, the first best alpha of the mean score of the *other* folds;
  the gain is value there less value at the first grid point, on this fold;
  then the mean over folds. Taking the best of many cannot flatter it.

  Args:
    score: chooses, by fold and alpha.
    value: is compared.
  """
  others = score.sum(-2, keepdims=True) - score
  chosen = others.argmax(-1)[..., None]
  gained = np.take_along_axis(value, chosen, -1)[..., 0] - value[..., 0]
  return gained.mean(-1)


def estimate_gain(
  gain: Float[np.ndarray, 'b'], confidence: float
) -> GainEstimate:
  """An estimate (row 0), its bootstrap spread, and its one-sided lower end.

  The lower end is the estimate less a normal quantile of the spread: resamples
  repeat images, which shifts penalties on class counts, so their own quantiles
  would be off centre.
  """
  deviation = float(gain[1:].std()) if len(gain) > 1 else 0.0
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
  """The first best alpha of J_cf, or none where the evidence does not carry it.

  Two gains over alpha = 0 are measured: in J, `out_of_fold`; and, at alpha_hat,
  in how rarely the corrupted label of an unseen image is predicted. J made the
  choice and no label did, so the second needs no other fold. Under symmetric
  noise it is an unbiased estimate of accuracy: a wrong prediction hits a
  uniformly drawn wrong label once in C - 1 times. Each gain is divided by its
  bootstrap deviation; the rule abstains unless the lower end of their sum is
  above 0.

  What this promises: a step that does nothing but fit the images at hand is
  taken about as rarely as 1 - confidence says; .8 fits a user to whom a loss
  weighs four times a gain forgone. What it does not: J is no accuracy, so a
  gain in J may be real and still cost accuracy; under other than symmetric
  noise a label that is avoided need not be a truth that is found; the fold
  vectors come from fewer images than the vector that is used, and intervals
  leave out how another proxy would move it; and with some hundred images many
  repairs that would have helped are left undone.

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
  rate = evidence.rate.mean(1)
  rarer = rate[:, 0] - rate[:, position]
  fixed = estimate_gain(mean[:, position] - mean[:, 0], confidence)
  difference = estimate_gain(gain, confidence)
  fewer = estimate_gain(rarer, confidence)
  both = estimate_gain(
    _scale_by_deviation(gain) + _scale_by_deviation(rarer), confidence
  )
  selected = position > 0 and both.low > 0
  times = 1 if factor is None else factor
  record = {
    'J_cf': mean[0].tolist(),
    'alpha_hat': float(alphas[position]),
    'alpha_interval': _interval(alphas[mean[1:].argmax(1)]),
    'fixed': fixed.estimate,
    'fixed_low': fixed.low,
    'difference': difference.estimate,
    'difference_low': difference.low,
    'corrupted_label_fall': fewer.estimate,
    'corrupted_label_fall_low': fewer.low,
    'accuracy_gain': None if factor is None else times * fewer.estimate,
    'accuracy_gain_low': None if factor is None else times * fewer.low,
    'evidence': both.estimate,
    'evidence_deviation': both.deviation,
    'evidence_low': both.low,
    'confidence': confidence,
  }
  return _safe_choice(alphas, position if selected else None, record)


def judge_poison(
  alphas: Float[np.ndarray, 'a'], evidence: FoldEvidence, threshold: float
) -> SafeChoice:
  """The smallest alpha that disarms unseen triggers, if the target survives.

  The attack success is that of triggered proxy images that the vector was not
  fitted to, mean over folds; the rule of `alpha_rules.choose_smallest_below`
  picks. Then a
  check that needs no labels: where the share of the target class among the
  predictions on untriggered pool images falls below half of what it was at
  alpha = 0, the attack went with the class, and the rule abstains.

  It does not see a class that is merely hurt, nor one that is confused with
  another at an unchanged share.

  Args:
    alphas: the grid, without 0.
    evidence: attack success and share of the target class, at 0 and then at
      every point of the grid.
    threshold: largest attack success that qualifies.
  """
  attack, share = evidence.score.mean(1)[:, 1:], evidence.rate.mean(1)
  choice = alpha_rules.choose_smallest_below(alphas, attack[0], threshold)
  position = choice.position
  kept = None if position is None else float(share[0, position + 1])
  alive = kept is not None and kept >= share[0, 0] / 2
  found = [
    alpha_rules.choose_smallest_below(alphas, row, threshold)
    for row in attack[1:]
  ]
  record = {
    'proxy_attack_success_rate_cf': attack[0].tolist(),
    'target_share_cf': share[0, 1:].tolist(),
    'target_share_before': float(share[0, 0]),
    'target_share_after': kept,
    'alpha_hat': choice.alpha if choice.selected else None,
    'alpha_interval': _interval(
      np.array([one.alpha for one in found if one.selected])
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
  if position is None:
    return SafeChoice(
      alpha_rules.AlphaChoice(0.0, None, False), {'selected': False, **record}
    )
  choice = alpha_rules.AlphaChoice(float(alphas[position]), position, True)
  return SafeChoice(choice, {'selected': True, **record})


def abstain(reason: str) -> SafeChoice:
  """No choice, because nothing could be measured."""
  return SafeChoice(
    alpha_rules.AlphaChoice(0.0, None, False),
    {'selected': False, 'reason': reason},
  )


def facts(result: SafeChoice) -> Info:
  """What a table shows: alpha, whether it was selected, and its interval."""
  low, high = result.record.get('alpha_interval') or (None, None)
  return {
    'alpha': result.choice.alpha,
    'selected': result.choice.selected,
    'alpha_low': low,
    'alpha_high': high,
  }
