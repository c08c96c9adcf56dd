"""Factories of methods by the canonical names of the catalogue."""

import functools
from collections.abc import Callable

from cmu_jax.core.types import Method
from cmu_jax.methods import (
  amun,
  ascent,
  catalogue,
  relabelling,
  retraining,
  teachers,
  trw,
  union_training,
  wrappers,
)
from cmu_jax.methods.backdoor import (
  distillation,
  pruning,
)
from cmu_jax.methods.cuts import algorithm, forget_proxy, task_simplex
from cmu_jax.methods.dampening import potion, ssd
from cmu_jax.methods.detection import wrapper
from cmu_jax.methods.projection import sap, svd_projection
from cmu_jax.methods.unlabelled import halves, information_maximization
from cmu_jax.robustness import attacks

# AMUN's first radius on CIFAR-10, for the march along one direction as well.
_RADIUS = 0.04

FACTORIES: dict[str, Callable[..., Method]] = {
  'retrain': retraining.retrain,
  'finetune': retraining.finetune,
  'eu_k': retraining.eu_k,
  'cf_k': retraining.cf_k,
  'l1_sparse': retraining.l1_sparse,
  'gradient_ascent': ascent.gradient_ascent,
  'alternating_ascent': ascent.alternating_ascent,
  'neggrad_plus': ascent.neggrad_plus,
  'npo': ascent.npo,
  'badt': teachers.badt,
  'scrub': teachers.scrub,
  'scrub_original': teachers.scrub_original,
  'random_label': relabelling.random_label,
  'relabel_second': relabelling.relabel_second,
  'redrawn_label': union_training.redrawn_label,
  'boundary_shrink': union_training.boundary_shrink,
  'amun': amun.amun,
  'amun_ffgsm': functools.partial(amun.amun, attack=attacks.march(_RADIUS)),
  'trw': trw.trw,
  'logit_mask': trw.logit_mask,
  'ssd': ssd.ssd,
  'assd': ssd.assd,
  'potion': potion.potion,
  'sap': sap.sap,
  'svd_projection': svd_projection.svd_projection,
  'cuts': algorithm.cuts,
  'cuts_forget': forget_proxy.cuts_forget,
  'cuts_forget_simplex': task_simplex.cuts_simplex,
  'information_maximization': (
    information_maximization.information_maximization
  ),
  'information_maximization_safe': halves.safe_information_maximization,
  'distill_both': distillation.self_distillation,
  'distill_projected': distillation.projected_distillation,
  'fine_pruning': pruning.fine_pruning,
  'bn_recalibration': pruning.bn_recalibration,
  # These take other methods in place of a network.
  'retrain_twice': wrappers.retrain_twice,
  'by_labels': wrappers.by_labels,
  'when_needed': wrappers.when_needed,
  'detected': wrapper.with_detector,
}


# Options of a variant can be overridden by the caller, as those of any partial.
def factory(name: str) -> Callable[..., Method]:
  """The factory of a method or of a variant, its own options bound.

  Args:
    name: canonical, see `study_names.find` for the names of a study.
  """
  entry = catalogue.ENTRIES[name]
  return functools.partial(FACTORIES[entry.base or name], **entry.options)
