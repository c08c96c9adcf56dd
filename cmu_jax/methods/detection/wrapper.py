r"""Detect, then unlearn: a method whose S_f is enlarged by a detector.

  theta_u = U(theta_o, S_tr, S_f + D),   D a part of S_tr \ S_f

A detector flags D from the features of theta_o, the trained labels and S_f.

References:
  The setting is that of Corrective Machine Unlearning, arXiv 2402.14015: S_f is
  a uniform sample of S_m. Each detector names its own paper.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from cmu_jax.core import errors, rng
from cmu_jax.core.types import Method, MethodInputs, Network, Result, Variables
from cmu_jax.methods import finetuning
from cmu_jax.methods.detection import detector_data
from cmu_jax.training import descent


def move_flagged(
  data: MethodInputs, flags: Bool[np.ndarray, 'n']
) -> MethodInputs:
  """Moves flagged rows of retain to forget.

  Args:
    data: has retain, of n rows, and forget.
    flags: rows of retain; invalid rows have no effect.

  Returns:
    `data` itself if no valid row is flagged. Else retain with as many rows as
    before, and forget with at least as many.

  Raises:
    UserError: no sample would be left to retain.
  """
  retain, forget = data.retain, data.forget
  assert retain is not None and forget is not None
  valid, size = np.asarray(retain.valid), flags.size
  flagged = np.flatnonzero(valid & flags)
  remaining = np.flatnonzero(valid & ~flags)
  if not flagged.size:
    return data
  errors.check(
    remaining.size, 'the detector flagged all of S_tr; choose another detector'
  )
  identified = np.flatnonzero(np.asarray(forget.valid))
  rows = np.concatenate([size + identified, flagged])
  # Padded to the rows of retain: any number of flagged samples has the same
  # shape, and the method compiles once.
  larger = descent.gather_samples(
    descent.join_samples(retain, forget).batch, rows, max(size, rows.size), True
  )
  return data._replace(
    retain=descent.gather_samples(retain.batch, remaining, size, False),
    forget=larger,
  )


@finetuning.check_settings
def with_detector(
  method: Method,
  detector: detector_data.Detector,
  network: Network,
  *,
  batch_size: int = 1024,
  extract: detector_data.FeatureExtractor = detector_data.penultimate_features,
) -> Method:
  """Wraps a method so that a detector enlarges its S_f.

  Args:
    method: any method of the benchmark.
    detector: for example one of `detection.DETECTORS`.
    network: the model to repair, and its input step, which paints the triggers
      of S_tr.
    batch_size: images at a time, in the pass over S_tr.
    extract: the features of the detector, see `detection.extractor_of`.

  Returns:
    The method; its info also has 'flagged', the size of D.
  """

  def prepare(key, variables: Variables, data: Any) -> tuple:
    suspects = detector_data.collect(
      rng.fold_in(key, 'detection'),
      network,
      variables,
      data,
      batch_size,
      extract,
    )
    rows = np.flatnonzero(np.asarray(data.retain.valid))
    flags = np.zeros(data.retain.valid.shape, bool)
    # `collect` puts the valid rows of retain first.
    flags[rows] = detector(suspects)[: rows.size]
    larger = move_flagged(data, flags)
    count = jnp.int32(flags.sum())
    return larger, method.prepare(key, variables, larger), count

  def solve(key, variables: Variables, data, prepared, hyper) -> Result:
    del data
    larger, prepared_method, count = prepared
    repaired, info = method.solve(
      key, variables, larger, prepared_method, hyper
    )
    return repaired, {**info, 'flagged': count}

  needs = tuple(dict.fromkeys(('retain', 'forget', *method.needs)))
  return Method(needs, prepare, solve, method.grid, method.elementwise)
