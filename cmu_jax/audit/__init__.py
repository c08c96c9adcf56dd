"""Membership audits of scores: what an attacker can tell from a network.

  score = audit.rmia(target, references, inside, population).score
  found = audit.evaluate(key, score[members], score[others], references=k)

Everything here takes arrays of scores or of statistics, whatever made them,
and returns plain results. Higher scores are more like members throughout.
"""

from cmu_jax.audit.confidence import confidence_attack
from cmu_jax.audit.lira_scores import lira
from cmu_jax.audit.ranks import (
  auc,
  balanced_accuracy,
  bootstrap,
  detectable,
  hanley_mcneil,
  roc,
  tpr_at,
)
from cmu_jax.audit.rmia_scores import Rmia, offline, online, rmia
from cmu_jax.audit.signals import (
  PROBABILITIES,
  SIGNALS,
  logit_confidence,
  softmax,
  taylor_softmax,
)
from cmu_jax.audit.ulira_scores import Ulira, class_level, ulira
from cmu_jax.audit.verdict import Audit, Estimate, evaluate

__all__ = [
  'PROBABILITIES',
  'SIGNALS',
  'Audit',
  'Estimate',
  'Rmia',
  'Ulira',
  'auc',
  'balanced_accuracy',
  'bootstrap',
  'class_level',
  'confidence_attack',
  'detectable',
  'evaluate',
  'hanley_mcneil',
  'lira',
  'logit_confidence',
  'offline',
  'online',
  'rmia',
  'roc',
  'softmax',
  'taylor_softmax',
  'tpr_at',
  'ulira',
]
