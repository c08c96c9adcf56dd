"""A sweep of seconds: digits, a narrow network, few steps."""

from cmu_jax.studies.corrective import benchmark, settings, study
from cmu_jax.studies.engine import run

# One manipulation and method, so that there is a cell for every device.
SPREAD = {
  'manipulations': ('interclass',),
  'methods': ('rewod',),
  'seeds': (0, 1, 2, 3),
}


def config(**changes):
  """Settings of a tiny sweep; changes by dotted name with '__' for the dot."""
  found = settings.base('small')
  found.seeds = (0,)
  found.train_limit = 400
  found.test_limit = 100
  found.identified_fractions = (0.5, 1.0)
  found.methods = ('rewod', 'cf')
  found.poison.sizes = (20,)
  found.poison.trigger_size = 2
  found.interclass.sizes = (30,)
  found.model = dict(name='fc', width=8, dtype='float32')
  found.ssd.batch_size = 32
  for part in ('train', 'unlearn', 'scrub', 'ascent', 'proxy_train'):
    found[part].update(steps=12, batch_size=32)
  found.scrub_ascent_steps = 2
  found.update_from_flattened_dict(
    {name.replace('__', '.'): value for name, value in changes.items()}
  )
  return found


def context(folder, minutes=None, **changes):
  """The context of a tiny sweep in a work folder."""
  made = config(**changes)
  world = benchmark.load(made, folder)
  return run.make_context(made, world, folder, minutes)


def finish(context):
  """Runs a sweep to its end; returns its results."""
  results, finished = run.follow_plan(study.STUDY, context)
  assert finished
  return results
