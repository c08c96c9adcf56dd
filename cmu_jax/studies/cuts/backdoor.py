"""Repairs of a poisoned network beside CUTS, in one place for all programs.

All of them see the weights, the pool's images, the trigger and its class; none
sees a label of the pool.
"""

from cmu_jax.core import rng
from cmu_jax.core.types import Info, Method, MethodInputs, Network, Variables
from cmu_jax.methods.backdoor import distillation
from cmu_jax.studies.cuts.scene import Case
from cmu_jax.studies.engine import recipes
from cmu_jax.training import train

# Method -> its network, the inputs that it could see, facts of its row.
Repaired = dict[str, tuple[Variables, str, Info]]
# All repairs here see the same, so that a table compares them fairly.
_INFORMATION = 'weights + unlabelled pool, trigger, target'


def repair(case: Case) -> tuple[Repaired, dict[str, train.Fit]]:
  """Computes the projected repair of a poisoned network, and its baselines.

  Their fine-tunings have the settings of `proxy_train`.

  Returns:
    The networks by method, and the fits by stage: 'distill_untriggered'
    (triggered copies only), 'distill_both' (also the untriggered ones),
    'distill_projected' (the latter's task vector).
  """
  config, data = case.config, case.data
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
  network = Network(case.world.model, case.world.inputs)
  methods: dict[str, Method] = {
    'distill_untriggered': distillation.self_distillation(
      network,
      once,
      untriggered=False,
      checkpoint=case.checkpoint('distill_untriggered'),
    ),
    'distill_projected': distillation.projected_distillation(
      network, twice, rule=rule, checkpoint=case.checkpoint('distill_both')
    ),
  }
  networks: Repaired = {}
  fits = {}
  for name, method in methods.items():
    # The name is in the key, so that a new method leaves the random numbers of
    # the others alone.
    key = rng.fold_in(data.key, 'backdoor', name)
    repaired, info = method(key, case.corrupted, MethodInputs(proxy=data.proxy))
    facts: Info = {k: info[k] for k in ('alpha', 'selected') if k in info}
    fits[name] = info['fit']
    if name == 'distill_projected':
      # The network that its task vector leads to is a baseline of its own.
      networks['distill_both'] = (info['fit'].variables, _INFORMATION, {})
    networks[name] = (repaired, _INFORMATION, facts)
  return networks, fits
