r"""Retraining twice: what the first network would label so itself comes back.

  theta_1 = A(S_tr \ S_f)
  B       = {(x, y) in S_f : argmax f(x; theta_1) = y}
  theta_u = A((S_tr \ S_f) + B)

with A the procedure that trained the original model. Ours, for an S_f that a
detector enlarged: half of a class leaves with its bad samples, and a network
trained without them knows the good ones again. A triggered image it sees as
what it shows. Where labels were exchanged and some of them remain, theta_1 is
no judge: see `by_labels`.

Two methods for two manipulations, told apart by the labels of S_f.

  theta_u = U_one(theta_o)      where S_f was trained with a single label
            U_several(theta_o)  otherwise

A backdoor needs one label for all its images, and what they truly show is
anybody's guess: they are left out. Labels that were exchanged are several, and
the runner-up of theta_o is close to the truth: they are put right. Ours; with a
fraction identified no other knowledge of the manipulation is used. One sample
in S_f says nothing, so it counts as a single label.

More samples are suspected only where those identified do not suffice.

  theta_1 = A(S_tr \ S_f)
  r       = share of (x, y) in S_f with argmax f(x; theta_1) = y
  theta_u = theta_1           where r <= tolerance
            U(theta_o, S_f)   otherwise

S_f is wrong by assumption, and theta_1 was not trained on it: it answers with
the wrong label where samples like those are still in S_tr, and seldom where
all of them are known. Then every further suspect is a good sample. Ours.

Requests that come one after another: each begins where the last ended.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from cmu_jax.core import errors, rng
from cmu_jax.core.types import (
  Batch,
  Info,
  Method,
  MethodInputs,
  Network,
  PRNGKey,
  Samples,
  Variables,
)
from cmu_jax.training import descent, metrics


def agreement_mask(
  network: Network, variables: Variables, forget: Samples
) -> Bool[np.ndarray, 'm']:
  """Which valid rows of S_f a network gives the label they were trained with.

  Args:
    network: the model and its input step.
    variables: of the network.
    forget: m rows.
  """
  seen = metrics.predict(network, variables, forget.batch)
  return (seen == np.asarray(forget.batch.label)) & np.asarray(forget.valid)


def readmit(given: MethodInputs, back: Bool[np.ndarray, 'm']) -> MethodInputs:
  """Rows of forget added to retain, of as many rows as before if they fit.

  Args:
    given: has retain, of n rows, and forget, of m.
    back: rows of forget; those that are not valid do not matter.
  """
  retain, forget = given.retain, given.forget
  assert retain is not None and forget is not None
  size = retain.valid.size
  kept = np.flatnonzero(np.asarray(retain.valid))
  more = np.flatnonzero(back & np.asarray(forget.valid))
  rows, index = (
    descent.join_samples(retain, forget).batch,
    np.append(kept, size + more),
  )
  capacity = max(size, index.size)
  return given._replace(
    retain=descent.gather_samples(rows, index, capacity, False)
  )


def retrain_twice(retraining: Method, network: Network) -> Method:
  """Retrains without S_f, then with what of it that network agrees on.

  Args:
    retraining: the retraining, see `retraining.rewod`.
    network: the model and its input step.

  Returns:
    The method; its info has 'readmitted' besides, the size of B.
  """

  def solve(
    key, variables: Variables, given: Any, prepared, hyper
  ) -> tuple[Variables, Info]:
    named = rng.fold_in(key, 'first')
    first, before = retraining.solve(named, variables, given, prepared, hyper)
    back = agreement_mask(network, first, given.forget)
    larger = readmit(given, back)
    found, after = retraining.solve(key, variables, larger, prepared, hyper)
    cost = before['gradient_evaluations'] + after['gradient_evaluations']
    info = {'gradient_evaluations': cost, 'readmitted': int(back.sum())}
    return found, {**after, **info}

  needs = tuple(dict.fromkeys((*retraining.needs, 'forget')))
  return Method(needs, retraining.prepare, solve)


def has_single_label(given: MethodInputs) -> bool:
  """Whether all of S_f was trained with one label."""
  assert given.forget is not None
  valid = np.asarray(given.forget.valid)
  return np.unique(np.asarray(given.forget.batch.label)[valid]).size <= 1


def by_labels(single: Method, several: Method) -> Method:
  """Either of two methods, by the labels that S_f was trained with.

  Args:
    single: for a single label; of one grid point.
    several: for several labels; of one grid point.

  Returns:
    A method of one grid point, which needs what both of them need.
  """
  assert len(single.grid) == len(several.grid) == 1

  def chosen(given: MethodInputs) -> Method:
    return single if has_single_label(given) else several

  def prepare(key, variables: Variables, given: Any) -> Any:
    return chosen(given).prepare(key, variables, given)

  def solve(
    key, variables: Variables, given: Any, prepared, hyper
  ) -> tuple[Variables, Info]:
    del hyper
    method = chosen(given)
    return method.solve(key, variables, given, prepared, method.grid[0])

  needs = tuple(dict.fromkeys(('forget', *single.needs, *several.needs)))
  return Method(needs, prepare, solve)


TOLERANCE = 0.1


def when_needed(
  retraining: Method,
  fallback: Method,
  network: Network,
  tolerance: float = TOLERANCE,
) -> Method:
  """Leaves S_f out, and takes another method where that is not enough.

  Args:
    retraining: the retraining without S_f, see `retraining.rewod`.
    fallback: what suspects further samples; of one grid point.
    network: the model and its input step.
    tolerance: the largest share of S_f that may still get its wrong label.

  Returns:
    A method of one grid point; its info has 'remaining' besides, that share.
  """
  assert len(retraining.grid) == len(fallback.grid) == 1

  def solve(
    key, variables: Variables, given: Any, prepared, hyper
  ) -> tuple[Variables, Info]:
    named = rng.fold_in(key, 'first')
    first, before = retraining.solve(named, variables, given, prepared, hyper)
    wrong = agreement_mask(network, first, given.forget)
    share = float(wrong.sum() / np.asarray(given.forget.valid).sum())
    if share <= tolerance:
      return first, {**before, 'remaining': share}
    ready = fallback.prepare(rng.fold_in(key, 'prepare'), variables, given)
    found, after = fallback.solve(
      key, variables, given, ready, fallback.grid[0]
    )
    cost = before['gradient_evaluations'] + after['gradient_evaluations']
    return found, {**after, 'gradient_evaluations': cost, 'remaining': share}

  needs = tuple(dict.fromkeys(('forget', *retraining.needs, *fallback.needs)))
  return Method(needs, retraining.prepare, solve)


def _check_requests(requests: Sequence[np.ndarray], rows: int) -> None:
  errors.check(requests, 'there are no requests to unlearn; give one or more')
  for position, request in enumerate(requests):
    errors.check(
      request.size, f'request {position} is empty; give one sample or more'
    )
  every = np.concatenate(list(requests))
  errors.check(
    every.min() >= 0 and every.max() < rows,
    f'requests name rows {every.min()} to {every.max()} of {rows} training '
    'samples; mend the indices',
  )
  errors.check(
    np.unique(every).size == every.size,
    'a sample is requested twice; name each once',
  )
  errors.check(
    every.size < rows,
    'the requests leave nothing to retain; name fewer samples',
  )


def request_inputs(
  train: Batch, requests: Sequence[Int[np.ndarray, '_']], position: int
) -> MethodInputs:
  """What a method sees at one request.

  Args:
    train: the training set.
    requests: rows of it that each request names.
    position: of the request.

  Returns:
    D_F, and D_R without this request and all before it, in arrays of one size
    for all requests.
  """
  rows = train.label.shape[0]
  gone = np.concatenate(list(requests[: position + 1]))
  left = np.setdiff1d(np.arange(rows), gone)
  most = max(request.size for request in requests)
  return MethodInputs(
    retain=descent.gather_samples(train, left, rows, False),
    forget=descent.gather_samples(train, requests[position], most, True),
  )


def unlearn_continuously(
  key: PRNGKey,
  method: Method,
  variables: Variables,
  train: Batch,
  requests: Sequence[Int[np.ndarray, '_']],
  *,
  adaptive: bool,
  hyper: Any = None,
) -> list[tuple[Variables, Info]]:
  """Unlearns requests in turn, without tuning in between.

  Args:
    key: of all of them.
    method: of the benchmark, with D_R or without.
    variables: theta_o.
    train: what theta_o was trained on.
    requests: rows of `train` that each request names; no row twice.
    adaptive: whether the method prepares from the current weights (AMUN-A); if
      not, from theta_o (AMUN, whose adversarial images can all be found before
      the first request).
    hyper: point of the method's grid; None for its first.

  Returns:
    Weights and info after each request.

  Raises:
    UserError: empty requests, rows that are not there or come twice.

  References:
    AMUN, arXiv 2503.00917: five requests of 1000 CIFAR-10 images.
  """
  _check_requests(requests, train.label.shape[0])
  point = method.grid[0] if hyper is None else hyper
  now, found = variables, []
  for position in range(len(requests)):
    whole = request_inputs(train, requests, position)
    given = MethodInputs(
      **{name: getattr(whole, name) for name in method.needs}
    )
    prepared = method.prepare(
      rng.fold_in(key, 'prepare', position),
      now if adaptive else variables,
      given,
    )
    now, info = method.solve(
      rng.fold_in(key, 'solve', position), now, given, prepared, point
    )
    found.append((now, info))
  return found
