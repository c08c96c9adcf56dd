"""Repairs of a poisoned network beside CUTS, in one place for all programs.

All of them see the weights, the pool's images, the trigger and its class; none
sees a label of the pool.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from cmu_jax.core import rng, store
from cmu_jax.core.types import Info, Method, MethodInputs, Network, Variables
from cmu_jax.methods.backdoor import distillation
from cmu_jax.studies.cuts import scene
from cmu_jax.studies.engine import recipes
from cmu_jax.training import train

CheckpointFactory = Callable[[str], store.Checkpoint | None]
Repaired = dict[str, tuple[Variables, str, Info]]

# All repairs here see the same, so that a table compares them fairly.
_INFORMATION = 'weights + unlabelled pool, trigger, target'


def repairs(
  config: ConfigDict,
  world: scene.World,
  data: scene.Scene,
  corrupted: Variables,
  make_checkpoint: CheckpointFactory,
) -> tuple[Repaired, dict[str, train.Fit]]:
  """The projected repair and its baselines for one seed.

  Args:
    config: every setting; the fine-tunings take those of `proxy_train`.
    world: shared by all seeds.
    data: of this seed.
    corrupted: the poisoned network.
    make_checkpoint: a stage's name to its checkpoints, or to None.

  Returns:
    (network, what it could see, facts) by method, and the fits by stage:
    'distill_untriggered' (triggered copies only), 'distill_both' (also the
    untriggered ones), 'distill_projected' (the latter's task vector).
  """
  pool = data.proxy.image.shape[0]
  # The training on both copies has twice as many images, and the number of
  # steps depends on it.
  once, twice = (
    recipes.fit_options(config.proxy_train, size, 'proxy_train')
    for size in (pool, 2 * pool)
  )
  rule = distillation.Rule(
    target=config.corruption.target, threshold=config.select.threshold
  )
  network = Network(world.model, world.inputs)
  methods: dict[str, Method] = {
    'distill_untriggered': distillation.self_distillation(
      network,
      once,
      untriggered=False,
      checkpoint=make_checkpoint('distill_untriggered'),
    ),
    'distill_projected': distillation.projected_distillation(
      network, twice, rule=rule, checkpoint=make_checkpoint('distill_both')
    ),
  }
  networks: Repaired = {}
  fits = {}
  for name, method in methods.items():
    # The name is in the key, so that a new method leaves the random numbers of
    # the others alone.
    key = rng.fold_in(data.key, 'backdoor', name)
    repaired, info = method(key, corrupted, MethodInputs(proxy=data.proxy))
    facts: Info = {k: info[k] for k in ('alpha', 'selected') if k in info}
    fits[name] = info['fit']
    if name == 'distill_projected':
      # The network that its task vector leads to is a baseline of its own.
      networks['distill_both'] = (info['fit'].variables, _INFORMATION, {})
    networks[name] = (repaired, _INFORMATION, facts)
  return networks, fits
