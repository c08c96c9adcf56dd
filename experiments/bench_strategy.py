"""How a grid should run here: one by one, `lax.map`, or `vmap`; measured.

Times K members of a training (stacked seeds) and a whole alpha curve for each
way of driving them. `cmu_jax.core.vectorize.default_strategy` is chosen from
these numbers.

  python experiments/bench_strategy.py --out bench_strategy.json
"""

import argparse
import functools
import json
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax import networks
from cmu_jax.commands import shell
from cmu_jax.core import errors, files, tree
from cmu_jax.core.types import Batch, Network
from cmu_jax.data import input_step
from cmu_jax.methods.cuts import alpha_rules, alpha_search
from cmu_jax.training import metrics, optimizers, segment, train

CASES: dict[str, tuple[str, dict[str, Any], tuple[int, int, int], int]] = {
  'mlp': ('fc', {'width': 512}, (8, 8, 1), 64),
  'fc1': ('fc', {'width': 32768}, (28, 28, 1), 1024),
  'convnet': ('convnet', {'width': 1}, (28, 28, 1), 128),
  'resnet9-16': ('resnet9', {'width': 16}, (32, 32, 3), 128),
  'resnet9-64': ('resnet9', {'width': 64}, (32, 32, 3), 512),
  'resnet18': ('resnet18', {'width': 64}, (32, 32, 3), 256),
  'resnet18-bf16': (
    'resnet18',
    {'width': 64, 'dtype': 'bfloat16'},
    (32, 32, 3),
    256,
  ),
}


def _median(run: Any, repeats: int) -> float:
  jax.block_until_ready(run())
  times = []
  for _ in range(repeats):
    began = time.perf_counter()
    jax.block_until_ready(run())
    times.append(time.perf_counter() - began)
  return statistics.median(times)


def measure(
  name: str, members: int, steps: int, points: int, repeats: int
) -> dict[str, Any]:
  """Seconds a step for K members and seconds a curve, by way of driving."""
  family, options, shape, batch_size = CASES[name]
  model = networks.make(family, 10, shape, **options)
  step = input_step.make((0.5,) * shape[2], (0.25,) * shape[2])
  rng = np.random.default_rng(0)
  size = 2048
  image = jnp.asarray(rng.integers(0, 256, (size, *shape)), jnp.uint8)
  label = jnp.asarray(rng.integers(0, 10, size), jnp.int32)
  keys = jax.random.split(jax.random.key(0), members)
  starts = [model.init(k, step.eval(image[:1], None)) for k in keys]
  adam = optimizers.adamw(optimizers.constant_schedule(1e-3))
  recipe = segment.SegmentSpec(
    Network(model, step), metrics.cross_entropy, adam, batch_size
  )
  batch = Batch(image, label)
  found: dict[str, Any] = {'case': name, 'members': members}
  single = segment.compile_segment(recipe, None)

  def state(stacked: bool) -> segment.TrainState:
    variables = tree.stack(starts) if stacked else starts[0]
    return train.initial_state(adam, variables, steps, stacked)

  def one_by_one():
    return [single(k, state(False), batch, 0, steps) for k in keys]

  found['train_loop'] = _median(one_by_one, repeats) / steps
  many = tree.stack([batch] * members)
  for how in ('map', 'vmap'):
    together = segment.compile_segment(recipe, how)
    run = lambda t=together: t(keys, state(True), many, 0, steps)
    found[f'train_{how}'] = _median(run, repeats) / steps
  tau = jax.tree.map(lambda x: 0.1 * x, starts[0].params)
  score = functools.partial(alpha_rules.agreement, k=50)
  pool = step.eval(image[:1000], None)
  grid = jnp.linspace(0, 1, points)
  for how in ('map', 'vmap'):
    run = lambda h=how: alpha_search.curve(
      model, starts[0], tau, pool, grid, score, how=h
    )
    found[f'alpha_{how}'] = _median(run, repeats)
  return found


def main() -> None:
  """Measures the cases and writes the JSON."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--cases', default='mlp,convnet,resnet9-16')
  parser.add_argument('--members', type=int, default=3)
  parser.add_argument('--steps', type=int, default=20)
  parser.add_argument('--points', type=int, default=81)
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--out')
  flags = parser.parse_args()
  found = []
  for name in flags.cases.split(','):
    if name not in CASES:
      raise errors.unknown_name('case', name, CASES)
    row = measure(name, flags.members, flags.steps, flags.points, flags.repeats)
    found.append({'device': jax.devices()[0].device_kind, **row})
    print(json.dumps(found[-1]), flush=True)
    if flags.out:
      files.write_json(flags.out, found)


if __name__ == '__main__':
  shell.run_script(main)
