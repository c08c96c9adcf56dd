"""Rules against a backdoor: the rest of the trigger, and of its class.

For each network and seed: a poisoned network, the oracle, the published CUTS,
the projected repairs, self-distillation and fine-tuning on clean labels, all
scored on triggered and untriggered test images. The work folder keeps finished
cells (network, seed).

  python experiments/poison_rules.py --data digits
  python experiments/poison_rules.py --data mnist --data_dir DIR
  python experiments/poison_rules.py --data cifar10 --data_dir DIR --seeds 3
  python experiments/poison_rules.py --data digits --trigger blended

Damping, threshold and grid were chosen on digits; other data sets had no part.
"""

import pathlib
import statistics
import time

import cell_runs
import jax
import jax.numpy as jnp

from cmu_jax.commands import shell
from cmu_jax.core import config as configs
from cmu_jax.core import files, provenance, rng
from cmu_jax.core.types import MethodInputs, Network, Proxy
from cmu_jax.methods.backdoor import distillation
from cmu_jax.methods.cuts import algorithm, alpha_search
from cmu_jax.studies.cuts import backdoor, evaluate
from cmu_jax.studies.cuts import scene as scenes
from cmu_jax.studies.engine import recipes
from cmu_jax.training import train

_SHORT = {'proxy_train.epochs': 0, 'proxy_train.schedule': 'constant'}
CELLS = {
  'digits': {
    'fc': ('cuts_poison_digits.py', {}),
    'convnet': (
      'cuts_poison_digits.py',
      {'model.name': 'convnet', 'model.width': 1, 'train.epochs': 60},
    ),
  },
  'mnist': {
    'fc': (
      'cuts_poison_mnist.py:width=256,epochs=20',
      {
        'train_limit': 6000,
        'proxy_fraction': 0.1,
        'train.batch_size': 256,
        'proxy_train.steps': 200,
        'finetune.steps': 200,
      },
    ),
  },
  'cifar10': {
    'convnet': (
      'cuts_poison_cifar10.py:model=convnet,width=1,epochs=20,rate=0.1',
      {
        'train_limit': 6000,
        'proxy_fraction': 0.1,
        'input.pad': 0,
        'train.batch_size': 128,
        'proxy_train.steps': 200,
        'proxy_train.batch_size': 128,
        **_SHORT,
      },
    ),
  },
}
_STRIPES = {
  'corruption.trigger': 'sinusoidal',
  'corruption.trigger_amplitude': 40.0,
  'corruption.trigger_frequency': 2.0,
}
TRIGGERS = {
  'badnet': {},
  'blended': {'corruption.trigger': 'blended'},
  'sinusoidal': _STRIPES,
  # Labels stay right: only strong stripes on most of the class are learnt.
  'clean_label': {
    **_STRIPES,
    'corruption.trigger_amplitude': 160.0,
    'corruption.kind': 'clean_label',
    'noise_rate': 0.9,
  },
}
ORDER = (
  'corrupted',
  'cuts',
  'cuts_projected',
  'distill_untriggered',
  'distill_both',
  'distill_projected',
  'finetune_clean_proxy',
  'oracle',
)
COLUMNS = {
  'attack_success_rate': 'ASR',
  'target_class_accuracy': 'target class',
  'test_accuracy': 'accuracy',
  'triggered_accuracy': 'triggered acc.',
}


def _train_networks(config, world, scene):
  """Trains the poisoned network and the oracle."""
  image = world.inputs.eval(world.dataset.test.image[:1], None)
  start = jax.jit(world.model.init)(rng.fold_in(scene.key, 'init'), image)
  return [
    train.fit(
      rng.fold_in(scene.key, 'train'),
      Network(world.model, world.inputs),
      start,
      batch,
      recipes.fit_options(config.train, batch.label.shape[0], 'train'),
      train.Session(title),
    ).variables
    for title, batch in (('poisoned', scene.train), ('oracle', scene.clean))
  ]


def _apply_published(config, world, scene, corrupted):
  """Applies the published rule, on its own proxy (chosen by pool labels)."""
  size = scene.proxy.label.shape[1]
  method = algorithm.cuts(
    Network(world.model, world.inputs),
    recipes.fit_options(config.proxy_train, size, 'proxy_train'),
    selection=alpha_search.Selection(
      kind='poison',
      threshold=config.select.threshold,
      target=config.corruption.target,
    ),
  )
  repaired, info = method(
    rng.fold_in(scene.key, 'unlearn'),
    corrupted,
    MethodInputs(proxy=scene.proxy),
  )
  return repaired, {k: info[k] for k in ('alpha', 'selected')}


def _project_attack(config, world, scene, corrupted):
  """Projects the task vector of CUTS, found without labels of the pool."""
  key = rng.fold_in(scene.key, 'backdoor', 'cuts_projected')
  network = Network(world.model, world.inputs)
  image, target = scene.proxy.image, config.corruption.target
  label = distillation.predict_untriggered(network, corrupted, image)
  positions = jnp.flatnonzero(label != target)[None, :].astype(jnp.int32)
  proxy = Proxy(
    image,
    positions,
    jnp.full(positions.shape, target, jnp.int32),
    jnp.ones(positions.shape, bool),
  )
  size = image.shape[0]
  training = recipes.fit_options(config.proxy_train, size, 'proxy_train')
  tau, _ = algorithm.direction(key, network, corrupted, proxy, training)
  rule = distillation.Rule(target=target, threshold=config.select.threshold)
  repaired, info = distillation.subtract_projected(
    key, network, corrupted, image, tau, rule
  )
  return repaired, {k: info[k] for k in ('alpha', 'selected')}


def _fine_tune(config, world, scene, corrupted):
  """Fine-tunes on the pool's clean labels."""
  size = scene.clean_proxy.label.shape[0]
  return train.fit(
    rng.fold_in(scene.key, 'finetune'),
    Network(world.model, world.inputs),
    corrupted,
    scene.clean_proxy,
    recipes.fit_options(config.finetune, size, 'finetune'),
    train.Session('fine-tuning on clean labels'),
  ).variables


def measure(config, world, score, seed):
  """Returns a row for each method, of one network and seed."""
  began = time.monotonic()
  scene = scenes.draw_scene(config, world, seed)
  corrupted, oracle = _train_networks(config, world, scene)
  case = scenes.Case(config, world, scene, corrupted, seed)
  repairs, _ = backdoor.repair(case)
  networks = {
    'corrupted': (corrupted, {}),
    'cuts': _apply_published(config, world, scene, corrupted),
    'cuts_projected': _project_attack(config, world, scene, corrupted),
    'finetune_clean_proxy': (_fine_tune(config, world, scene, corrupted), {}),
    'oracle': (oracle, {}),
    **{name: (network, facts) for name, (network, _, facts) in repairs.items()},
  }
  rows = [
    {
      'method': name,
      'seed': seed,
      **networks[name][1],
      **score(networks[name][0]).values,
    }
    for name in ORDER
  ]
  return {
    'rows': rows,
    'proxy_images': scene.proxy.image.shape[0],
    'seconds': round(time.monotonic() - began, 1),
  }


def _mean_and_deviation(values):
  mean = statistics.fmean(values)
  return f'{mean:.3f} ± {statistics.stdev(values) if values[1:] else 0:.3f}'


def table(rows):
  """Formats a Markdown table: mean and sample deviation of each method."""
  lines = [
    f'| | {" | ".join(COLUMNS.values())} | repaired |',
    '|---|' + '---|' * (len(COLUMNS) + 1),
  ]
  for name in ORDER:
    members = [row for row in rows if row['method'] == name]
    numbers = [
      _mean_and_deviation([row[key] for row in members]) for key in COLUMNS
    ]
    selected = [row['selected'] for row in members if 'selected' in row]
    count = f'{sum(selected)}/{len(selected)}' if selected else ''
    lines.append(f'| {name} | {" | ".join(numbers)} | {count} |')
  return '\n'.join(lines)


def load_config(network, flags):
  """Loads the config of a network, with the trigger of the flags."""
  file, changes = CELLS[flags.data][network]
  changes = {**changes, **TRIGGERS[flags.trigger]}
  fields = {name: str(value) for name, value in changes.items()}
  if flags.data_dir:
    fields['data_dir'] = flags.data_dir
  return configs.load(f'{cell_runs.ROOT}/configs/{file}', fields).config


def describe(network, config, cells):
  """Builds the entry of a network in the JSON."""
  record = provenance.describe_run(config)
  del record['command']
  rows = [row for cell in cells for row in cell['rows']]
  return {
    'network': network,
    'provenance': record,
    'config': {**configs.to_json(config), 'data_dir': None},
    'seconds': [cell['seconds'] for cell in cells],
    'proxy_images': cells[0]['proxy_images'],
    'table': table(rows).splitlines(),
    'rows': rows,
  }


def run_cells(network, config, flags, began):
  """Runs the cells of a network while minutes last; includes those on disk."""
  cells, world, score, longest = [], None, None, 0.0
  for seed in range(flags.seeds):
    path = pathlib.Path(flags.work) / f'{run_name(flags)}_{network}_{seed}.json'
    if not path.exists():
      start = time.monotonic()
      # A cell begins only if the longest so far would still end in time.
      if start - began + longest > 60 * flags.minutes:
        print(f'left for another run: {flags.data} {network} seed {seed}')
        continue
      world = world or scenes.load_world(config)
      score = score or evaluate.make_scorer(config, world)
      files.write_json(path, measure(config, world, score, seed))
      longest = max(longest, time.monotonic() - start)
    cells.append(files.read_json(path))
  return cells


def run_name(flags):
  """Names a run by its data, and by any trigger but the default."""
  suffix = '' if flags.trigger == 'badnet' else f'_{flags.trigger}'
  return f'{flags.data}{suffix}'


def main():
  """Runs the cells that fit, then writes and prints the tables."""
  parser = cell_runs.parser(__doc__)
  parser.add_argument('--data', choices=sorted(CELLS), default='digits')
  parser.add_argument('--data_dir')
  parser.add_argument('--trigger', choices=sorted(TRIGGERS), default='badnet')
  parser.add_argument('--network', help='a single network')
  parser.add_argument('--seeds', type=int, default=5)
  parser.add_argument('--minutes', type=float, default=9.0)
  parser.add_argument('--work', default='runs/poison_rules')
  parser.add_argument('--out', default='results')
  flags = parser.parse_args()
  began, entries = time.monotonic(), []
  for network in CELLS[flags.data]:
    if flags.network not in (None, network):
      continue
    config = load_config(network, flags)
    cells = run_cells(network, config, flags, began)
    if cells:
      entries.append(describe(network, config, cells))
      print(network, *entries[-1]['table'], sep='\n')
  directory = ' --data_dir DIR' if flags.data_dir else ''
  trigger = '' if flags.trigger == 'badnet' else f' --trigger {flags.trigger}'
  command = f'python experiments/poison_rules.py --data {flags.data}{directory}'
  path = pathlib.Path(flags.out) / f'poison_rules_{run_name(flags)}.json'
  files.write_json(
    path,
    {
      'command': f'{command}{trigger} --seeds {flags.seeds}',
      'development': run_name(flags) == 'digits',
      'networks': entries,
    },
  )


if __name__ == '__main__':
  shell.run_script(main)
