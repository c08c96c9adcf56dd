"""Membership audits of scores: what an attacker can tell from a network.

  score = audit.rmia(target, references, inside, population).score
  found = audit.evaluate(key, score[members], score[others], references=k)

Everything here takes arrays of scores or of statistics, whatever made them,
and returns plain results. Higher scores are more like members throughout.
"""

from cmu_jax.audits.clusters import Clusters, clustered
from cmu_jax.audits.confidence import confidence_attack
from cmu_jax.audits.label_recovery import (
  Recovery,
  expected_advantage,
  label_recovery,
  other_wrong,
)
from cmu_jax.audits.lira_scores import lira
from cmu_jax.audits.ranks import (
  auc,
  balanced_accuracy,
  detectable,
  hanley_mcneil,
  roc,
  tpr_at,
)
from cmu_jax.audits.resamples import bootstrap
from cmu_jax.audits.retrained import (
  LEAST_RETRAINED,
  Gap,
  accuracy_gap,
  discriminator_accuracy,
  nearest_class,
  others,
  separability,
  total_variation,
  total_variation_gap,
)
from cmu_jax.audits.rmia_scores import Rmia, offline, online, rmia
from cmu_jax.audits.signals import (
  PROBABILITIES,
  SIGNALS,
  logit_confidence,
  softmax,
  taylor_softmax,
)
from cmu_jax.audits.ulira_scores import CLIP, Ulira, class_level, ulira
from cmu_jax.audits.verdict import Audit, Estimate, evaluate

__all__ = [
  'CLIP',
  'LEAST_RETRAINED',
  'PROBABILITIES',
  'SIGNALS',
  'Audit',
  'Clusters',
  'Estimate',
  'Gap',
  'Recovery',
  'Rmia',
  'Ulira',
  'accuracy_gap',
  'auc',
  'balanced_accuracy',
  'bootstrap',
  'class_level',
  'clustered',
  'confidence_attack',
  'detectable',
  'discriminator_accuracy',
  'evaluate',
  'expected_advantage',
  'hanley_mcneil',
  'label_recovery',
  'lira',
  'logit_confidence',
  'nearest_class',
  'offline',
  'online',
  'other_wrong',
  'others',
  'rmia',
  'roc',
  'separability',
  'softmax',
  'taylor_softmax',
  'total_variation',
  'total_variation_gap',
  'tpr_at',
  'ulira',
]
