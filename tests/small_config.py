"""A little config and a stand-in for the experiment, shared by tests."""

import json
import pathlib
import types

from cmu_jax import main
from cmu_jax.commands import study
from cmu_jax.core import config

FILE = '''"""A little experiment."""
import ml_collections
from cmu_jax import config

def get_config(arg=''):
  a = config.parse_arg(arg, smoke=False, noise=0.3)
  return ml_collections.ConfigDict({
    'seeds': (0, 1), 'noise_rate': a.noise,
    'train': {'epochs': 1 if a.smoke else 9},
  })

def sweep(add):
  for noise in (0.2, 0.4, 0.6):
    add(noise=noise)
'''


def place(tmp_path, monkeypatch):
  """A config file in an empty current folder; the environment is put back."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('CMU_JAX_CACHE', str(tmp_path / 'cache'))
  for name in ('DIR', 'MIN_COMPILE_TIME_SECS', 'MIN_ENTRY_SIZE_BYTES'):
    kind = 'COMPILATION' if name == 'DIR' else 'PERSISTENT'
    monkeypatch.setenv(f'JAX_{kind}_CACHE_{name}', '')
    monkeypatch.delenv(f'JAX_{kind}_CACHE_{name}')
  pathlib.Path('configs').mkdir()
  pathlib.Path('configs/small.py').write_text(FILE)
  return 'configs/small.py'


def stand_in(monkeypatch):
  """Calls of the stand-in, as (config, workdir); append to `fail` to raise."""
  calls = types.SimpleNamespace(seen=[], fail=[])

  def experiment(cfg, folder, minutes):
    calls.seen.append((cfg, folder))
    if calls.fail:
      raise calls.fail.pop()
    results = {
      'finished': True,
      'provenance': {'config_hash': config.fingerprint(cfg)},
      'rows': [
        {'method': method, 'seed': seed, 'test_accuracy': accuracy + seed / 10}
        for seed in cfg.seeds
        for method, accuracy in (('none', 0.5), ('cuts', cfg.noise_rate))
      ],
    }
    (folder / 'results.json').write_text(json.dumps(results))
    return results

  monkeypatch.setattr(study, '_compute', experiment)
  return calls


def refusal(capfd, argv):
  """The one line that main says on stderr, with exit code 2."""
  assert main.main(argv) == 2
  out, said = capfd.readouterr()
  assert out == ''
  assert said.startswith('error: ')
  assert said.count('\n') == 1
  return said
