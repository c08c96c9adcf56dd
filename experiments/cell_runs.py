"""Shared skeleton of the experiments that run cell by cell.

A cell has a name ('symmetric,0.2,0') and a record. Its record is kept in the
JSON of the experiment, so the same command again continues.
"""

import argparse
import pathlib
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax

from cmu_jax.core import files, jit, progress, provenance, rng
from cmu_jax.core.types import Batch, Info, Network, Variables
from cmu_jax.studies.cuts import scene as scenes
from cmu_jax.studies.engine import recipes
from cmu_jax.training import train

ROOT = pathlib.Path(__file__).resolve().parents[1]


def parser(text: str | None) -> argparse.ArgumentParser:
  """Returns a parser whose help keeps the lines of a docstring."""
  return argparse.ArgumentParser(
    description=text, formatter_class=argparse.RawDescriptionHelpFormatter
  )


def seeds_of(flags: argparse.Namespace) -> list[int]:
  """Reads the numbers of --seeds."""
  return [int(seed) for seed in flags.seeds.split(',')]


def compute_missing(
  path: pathlib.Path,
  names: Iterable[str],
  compute: Callable[[str], Info],
  report: Callable[[dict[str, Info]], Info],
  *,
  minutes: float = float('inf'),
  field: str = 'by_cell',
) -> dict[str, Info]:
  """Computes the cells that a file lacks and writes the file after each.

  Args:
    path: the JSON.
    names: all cells, in order.
    compute: name -> record.
    report: records by name -> the content of the file.
    minutes: no cell begins later.
    field: of the file, with the records by name.

  Returns:
    The records of all finished cells.
  """
  names = list(names)
  cells = files.read_json(path)[field] if path.is_file() else {}
  deadline = time.monotonic() + 60 * minutes
  commit = provenance.describe_process()['commit']
  with progress.bar('cells', len(names), unit='cells') as advance:
    for name in names:
      if name not in cells:
        if time.monotonic() > deadline:
          print('the time is up: the same command continues', file=sys.stderr)
          break
        # By cell, because cells of one file may stem from several commits.
        cells[name] = {**compute(name), 'commit': commit}
        files.write_json(path, report(cells))
      advance()
  return cells


def describe(private: Iterable[str] = ()) -> Info:
  """Describes the origin of a file: command, commit, versions, device.

  Args:
    private: flags whose values are paths of this machine, and are left out.
  """
  words, arguments = [], iter(sys.argv[1:])
  for word in arguments:
    if word in private:
      next(arguments)
      words += [word, 'PATH']
    else:
      words.append(word)
  process = provenance.describe_process()
  script = f'experiments/{pathlib.Path(sys.argv[0]).name}'
  return {
    'command': shlex.join(['python', script, *words]),
    'commit': process['commit'],
    'versions': process['versions'],
    'device': jax.default_backend(),
  }


def train_network(
  config: Any, world: scenes.World, scene: scenes.Scene, batch: Batch
) -> Variables:
  """Trains the network of a config on a split, without checkpoints."""
  image = world.inputs.eval(world.dataset.test.image[:1], None)
  start = jit.compile_cheaply(world.model.init)(
    rng.fold_in(scene.key, 'init'), image
  )
  return train.fit(
    rng.fold_in(scene.key, 'train'),
    Network(world.model, world.inputs),
    start,
    batch,
    recipes.fit_options(config.train, batch.label.shape[0], 'train'),
  ).variables
