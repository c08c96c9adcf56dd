r"""Detect, then unlearn: a method with S_f enlarged by a detector.

  theta_u = U(theta_o, S_tr, S_f + D),   D a part of S_tr \ S_f

where D is what a detector flags from the features of theta_o, the trained
labels and S_f (`detection`).

References:
  The setting is that of Corrective Machine Unlearning, arXiv 2402.14015: S_f is
  a uniform sample of S_m. Each detector names its own paper.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from cmu_jax.core import errors, rng
from cmu_jax.core.types import (
  Info,
  Method,
  MethodInputs,
  Network,
  Variables,
)
from cmu_jax.methods.detection import detector_data
from cmu_jax.training import descent


def move_flagged(
  data: MethodInputs, flags: Bool[np.ndarray, 'n']
) -> MethodInputs:
  """Puts flagged rows of retain to forget.

  Args:
    data: has retain, of n rows, and forget.
    flags: rows of retain; those that are not valid do not matter.

  Returns:
    Retain of as many rows as before and forget of at least as many, so that
    every number of flagged samples has one shape; `data` itself if there is
    nothing to move.

  Raises:
    UserError: nothing would be left to retain.
  """
  retain, forget = data.retain, data.forget
  assert retain is not None and forget is not None
  valid, size = np.asarray(retain.valid), flags.size
  out, kept = np.flatnonzero(valid & flags), np.flatnonzero(valid & ~flags)
  if not out.size:
    return data
  errors.check(
    kept.size, 'the detector flagged all of S_tr; choose another detector'
  )
  known = np.flatnonzero(np.asarray(forget.valid))
  both = np.concatenate([size + known, out])
  rows = descent.join_samples(retain, forget).batch
  larger = descent.gather_samples(rows, both, max(size, both.size), True)
  return data._replace(
    retain=descent.gather_samples(retain.batch, kept, size, False),
    forget=larger,
  )


def with_detector(
  method: Method,
  detector: detector_data.Detector,
  network: Network,
  *,
  batch_size: int = 1024,
  extract: detector_data.FeatureExtractor = detector_data.penultimate_features,
) -> Method:
  """A method that is given S_f and what a detector adds to it.

  Args:
    method: any method of the benchmark.
    detector: for example one of `detection.DETECTORS`.
    network: the model and its input step.
    batch_size: images at a time, in the pass over S_tr.
    extract: what the detector looks at, see `evidence.collect`.

  Returns:
    The method; its info has 'flagged' besides, the size of D.
  """

  def prepare(key, variables: Variables, given: Any) -> tuple:
    named = rng.fold_in(key, 'detection')
    seen = detector_data.collect(
      named, network, variables, given, batch_size, extract
    )
    rows = np.flatnonzero(np.asarray(given.retain.valid))
    flags = np.zeros(given.retain.valid.shape, bool)
    flags[rows] = detector(seen)[: rows.size]
    larger = move_flagged(given, flags)
    count = jnp.int32(flags.sum())
    return larger, method.prepare(key, variables, larger), count

  def solve(
    key, variables: Variables, given: Any, prepared, hyper
  ) -> tuple[Variables, Info]:
    del given
    larger, inner, count = prepared
    found, info = method.solve(key, variables, larger, inner, hyper)
    return found, {**info, 'flagged': count}

  needs = tuple(dict.fromkeys(('retain', 'forget', *method.needs)))
  return Method(needs, prepare, solve, method.grid, method.elementwise)
