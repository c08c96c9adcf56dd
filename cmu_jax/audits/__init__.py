"""Membership audits: attacks on a network, and the evaluation of their scores.

  score = audits.rmia(target, references, inside, population).score
  audit = audits.evaluate(key, score[members], score[others], references=k)

All functions take arrays of statistics or scores of any origin. Higher scores
are more like members throughout.
"""

from cmu_jax.audits.evaluation import (
  Audit,
  BootstrapEstimate,
  DecisionRule,
  evaluate,
)
from cmu_jax.audits.label_recovery import (
  LabelRecovery,
  draw_other_labels,
  expected_advantage,
  recover_labels,
)
from cmu_jax.audits.lira_scores import lira
from cmu_jax.audits.resampling import Clusters, bootstrap, bootstrap_clusters
from cmu_jax.audits.rmia_scores import (
  Rmia,
  offline_probability,
  online_probability,
  rmia,
)
from cmu_jax.audits.roc_curves import (
  auc,
  balanced_accuracy,
  detectable_auc,
  hanley_mcneil_error,
  roc,
  tpr_at,
)
from cmu_jax.audits.signals import (
  PROBABILITIES,
  SIGNALS,
  logit_confidence,
  softmax,
  taylor_softmax,
)
from cmu_jax.audits.svm_attacks import (
  MIN_RETRAINED,
  RetrainedGap,
  accuracy_gap,
  confidence_attack,
  discriminator_accuracy,
  leave_one_out_means,
  nearest_class,
  separability,
  total_variation,
  total_variation_gap,
)
from cmu_jax.audits.ulira_scores import (
  CONFIDENCE_CLIP,
  Ulira,
  ulira,
  ulira_of_class,
)

__all__ = [
  'CONFIDENCE_CLIP',
  'MIN_RETRAINED',
  'PROBABILITIES',
  'SIGNALS',
  'Audit',
  'BootstrapEstimate',
  'Clusters',
  'DecisionRule',
  'LabelRecovery',
  'RetrainedGap',
  'Rmia',
  'Ulira',
  'accuracy_gap',
  'auc',
  'balanced_accuracy',
  'bootstrap',
  'bootstrap_clusters',
  'confidence_attack',
  'detectable_auc',
  'discriminator_accuracy',
  'draw_other_labels',
  'evaluate',
  'expected_advantage',
  'hanley_mcneil_error',
  'leave_one_out_means',
  'lira',
  'logit_confidence',
  'nearest_class',
  'offline_probability',
  'online_probability',
  'recover_labels',
  'rmia',
  'roc',
  'separability',
  'softmax',
  'taylor_softmax',
  'total_variation',
  'total_variation_gap',
  'tpr_at',
  'ulira',
  'ulira_of_class',
]
