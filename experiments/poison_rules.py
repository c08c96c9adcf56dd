"""Rules against a backdoor: what is left of the trigger and of its class.

For each network and seed: a poisoned network, the oracle, the published CUTS,
the projected repairs, self-distillation and fine-tuning on clean labels, all
scored on triggered and untriggered test images. A cell (network, seed) that
is finished in the work folder is not run again.

  python experiments/poison_rules.py --data digits
  python experiments/poison_rules.py --data mnist --data_dir DIR
  python experiments/poison_rules.py --data cifar10 --data_dir DIR --seeds 3
  python experiments/poison_rules.py --data digits --trigger blended

Damping, threshold and grid were settled on digits; the others are untouched.
"""

import argparse
import pathlib
import statistics
import time

import jax

from cmu_jax.commands import shell
from cmu_jax.core import config as configs
from cmu_jax.core import files, provenance, rng
from cmu_jax.core.types import Network
from cmu_jax.methods.cuts import algorithm, alpha_search
from cmu_jax.studies.cuts import backdoor, evaluate, scene
from cmu_jax.studies.engine import recipes
from cmu_jax.training import train

ROOT = pathlib.Path(__file__).resolve().parents[1]
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


def _networks(config, world, place):
  """The poisoned network and the oracle."""
  image = world.inputs.eval(world.dataset.test.image[:1], None)
  start = jax.jit(world.model.init)(rng.fold_in(place.key, 'init'), image)
  return [
    train.fit(
      rng.fold_in(place.key, 'train'),
      Network(world.model, world.inputs),
      start,
      batch,
      title=title,
      training=recipes.fit_options(config.train, batch.label.shape[0], 'train'),
    ).variables
    for title, batch in (('poisoned', place.train), ('oracle', place.clean))
  ]


def _published(config, world, place, corrupted):
  """The rule as published, on its own proxy (which pool labels select)."""
  size = place.proxy.label.shape[1]
  unlearn = algorithm.cuts(
    Network(world.model, world.inputs),
    selection=alpha_search.Selection(
      kind='poison',
      threshold=config.select.threshold,
      target=config.corruption.target,
    ),
    training=recipes.fit_options(config.proxy_train, size, 'proxy_train'),
  )
  repaired, info = unlearn(
    rng.fold_in(place.key, 'unlearn'), corrupted, place.proxy
  )
  return repaired, {k: info[k] for k in ('alpha', 'selected')}


def _tuned(config, world, place, corrupted):
  """Fine-tuning on the pool's clean labels."""
  size = place.clean_proxy.label.shape[0]
  return train.fit(
    rng.fold_in(place.key, 'finetune'),
    Network(world.model, world.inputs),
    corrupted,
    place.clean_proxy,
    title='fine-tuning on clean labels',
    training=recipes.fit_options(config.finetune, size, 'finetune'),
  ).variables


def cell(config, world, score, seed):
  """One row a method for one network and seed."""
  began = time.monotonic()
  place = scene.draw_scene(config, world, seed)
  corrupted, oracle = _networks(config, world, place)
  more, _ = backdoor.repairs(
    config, world, place, corrupted, lambda name: None, attack=True
  )
  found = {
    'corrupted': (corrupted, {}),
    'cuts': _published(config, world, place, corrupted),
    'finetune_clean_proxy': (_tuned(config, world, place, corrupted), {}),
    'oracle': (oracle, {}),
    **{name: (network, facts) for name, (network, _, facts) in more.items()},
  }
  rows = [
    {'method': name, 'seed': seed, **found[name][1], **score(found[name][0])}
    for name in ORDER
  ]
  return {
    'rows': rows,
    'proxy_images': place.proxy.image.shape[0],
    'seconds': round(time.monotonic() - began, 1),
  }


def _spread(values):
  mean = statistics.fmean(values)
  return f'{mean:.3f} ± {statistics.stdev(values) if values[1:] else 0:.3f}'


def table(rows):
  """Markdown: a line a method, mean and sample standard deviation."""
  lines = [
    f'| | {" | ".join(COLUMNS.values())} | repaired |',
    '|---|' + '---|' * (len(COLUMNS) + 1),
  ]
  for name in ORDER:
    own = [row for row in rows if row['method'] == name]
    numbers = [_spread([row[key] for row in own]) for key in COLUMNS]
    told = [row['selected'] for row in own if 'selected' in row]
    count = f'{sum(told)}/{len(told)}' if told else ''
    lines.append(f'| {name} | {" | ".join(numbers)} | {count} |')
  return '\n'.join(lines)


def _config(data, network, flags):
  file, changes = CELLS[data][network]
  every = {**changes, **TRIGGERS[flags.trigger]}
  fields = {name: str(value) for name, value in every.items()}
  if flags.data_dir:
    fields['data_dir'] = flags.data_dir
  return configs.load(f'{ROOT}/configs/{file}', fields).config


def _told(data, network, config, cells):
  """What the results file says about one network."""
  record = provenance.describe_run(config)
  rows = [row for found in cells for row in found['rows']]
  plain = {**configs.to_json(config), 'data_dir': None}
  del record['command']
  return {
    'network': network,
    'provenance': record,
    'config': plain,
    'seconds': [found['seconds'] for found in cells],
    'proxy_images': cells[0]['proxy_images'],
    'table': table(rows).splitlines(),
    'rows': rows,
  }


def _cells(data, network, config, flags, began):
  """Cells of one network, those on disk included, while minutes last."""
  found, world, score, longest = [], None, None, 0.0
  for seed in range(flags.seeds):
    path = pathlib.Path(flags.work) / f'{_name(flags)}_{network}_{seed}.json'
    if not path.exists():
      start = time.monotonic()
      if start - began + longest > 60 * flags.minutes:
        print(f'left for another run: {data} {network} seed {seed}')
        continue
      world = world or scene.load_world(config)
      score = score or evaluate.scorer(config, world)
      only = lambda network, s=score: s(network).values
      files.write_json(path, cell(config, world, only, seed))
      longest = max(longest, time.monotonic() - start)
    found.append(files.read_json(path))
  return found


def _name(flags):
  """Data, and the trigger where it is not the usual one."""
  other = '' if flags.trigger == 'badnet' else f'_{flags.trigger}'
  return f'{flags.data}{other}'


def main():
  """Runs the cells that fit, then writes and prints the tables."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--data', choices=sorted(CELLS), default='digits')
  parser.add_argument('--data_dir')
  parser.add_argument('--trigger', choices=sorted(TRIGGERS), default='badnet')
  parser.add_argument('--network', help='one of the networks alone')
  parser.add_argument('--seeds', type=int, default=5)
  parser.add_argument('--minutes', type=float, default=9.0)
  parser.add_argument('--work', default='runs/poison_rules')
  parser.add_argument('--out', default='results')
  flags = parser.parse_args()
  began, networks = time.monotonic(), []
  for network in CELLS[flags.data]:
    if flags.network not in (None, network):
      continue
    config = _config(flags.data, network, flags)
    cells = _cells(flags.data, network, config, flags, began)
    if cells:
      networks.append(_told(flags.data, network, config, cells))
      print(network, *networks[-1]['table'], sep='\n')
  directory = ' --data_dir DIR' if flags.data_dir else ''
  trigger = '' if flags.trigger == 'badnet' else f' --trigger {flags.trigger}'
  command = f'python experiments/poison_rules.py --data {flags.data}{directory}'
  path = pathlib.Path(flags.out) / f'poison_rules_{_name(flags)}.json'
  files.write_json(
    path,
    {
      'command': f'{command}{trigger} --seeds {flags.seeds}',
      'development': _name(flags) == 'digits',
      'networks': networks,
    },
  )


if __name__ == '__main__':
  shell.run_script(main)
