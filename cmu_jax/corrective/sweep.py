"""A sweep: originals, cells, results. It continues where it was stopped."""

import pathlib
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from cmu_jax import (
  binding,
  jitting,
  originals,
  recipes,
  records,
  rng,
  train,
)
from cmu_jax.corrective import (
  cells,
  live,
  measure,
  references,
  roster,
  selection,
  settings,
  solve,
  workers,
)
from cmu_jax.corrective import world as worlds
from cmu_jax.corrective.cells import Case, Cell
from cmu_jax.corrective.measure import Look
from cmu_jax.corrective.world import Scene, World
from cmu_jax.types import Dataset, Info, Method, Variables


class Stage(NamedTuple):
  """What all cells share, and where they are kept.

  Attributes:
    config: every setting.
    folder: the work folder.
    worlds: by manipulation.
    summed: digest of the data.
    methods: by manipulation and name; the same objects for all seeds, so that
      they compile once.
  """

  config: ConfigDict
  folder: pathlib.Path
  worlds: dict[str, World]
  summed: str
  methods: dict[tuple[str, str], Method]


class Start(NamedTuple):
  """A problem with its original network, on one device."""

  scene: Scene
  original: Variables
  before: Look


def stage(config: ConfigDict, folder: pathlib.Path, dataset: Dataset) -> Stage:
  """Binds everything once.

  Raises:
    UserError: settings that do not fit the data.
  """
  made = {
    kind: worlds.world(config, dataset, kind) for kind in config.manipulations
  }
  methods = {}
  for kind, one in made.items():
    first = worlds.scene(config, one, config[kind].sizes[0], config.seeds[0])
    size = first.problem.truth.size
    for name in dict.fromkeys(('rewod', *config.methods)):
      methods[kind, name] = roster.ENTRIES[name].make(config, one, size)
  return Stage(config, folder, made, records.data_sum(dataset), methods)


def original(place: Stage, case: Case, scene: Scene) -> Variables:
  """The network as trained on S_tr, from its checkpoint if it is done."""
  config, one = place.config, place.worlds[case.manipulation]
  name = cells.case_address(config, place.summed, case)
  image = one.inputs.eval(scene.reported.image[:1], None)
  batch = scene.problem.train
  return train.fit(
    rng.named(scene.key, 'train'),
    one.model,
    jitting.once(one.model.init)(rng.named(scene.key, 'init'), image),
    batch,
    inputs=one.inputs,
    checkpoint=originals.saving(place.folder, name, config.checkpoint_seconds),
    title=f'original, {case.manipulation} {case.size}, seed {case.seed}',
    **recipes.fit_options(config.train, batch.label.shape[0], 'train'),
  ).variables


def scene_of(place: Stage, case: Case) -> Scene:
  """What a case works on."""
  one = place.worlds[case.manipulation]
  return worlds.scene(place.config, one, case.size, case.seed)


def _starting(place: Stage) -> Callable[[Case], Start]:
  """Problems by case, each made once a thread and only when it is needed."""
  held: dict[Any, Start] = {}
  lock = threading.Lock()

  def start(case: Case) -> Start:
    name = (case, threading.get_ident())
    if name in held:
      return held[name]
    one, scene = place.worlds[case.manipulation], scene_of(place, case)
    name_of = cells.case_address(place.config, place.summed, case)
    scene = references.compared(place.config, place.folder, one, scene, name_of)
    trained = original(place, case, scene)
    size = place.config.evaluate.batch_size
    before = solve.look(one, measure.sets(one, scene), trained, size)
    with lock:
      # Cells come case by case: what is behind need not fill the memory.
      for old in [key for key in held if key[1] == name[1]]:
        del held[old]
      held[name] = Start(scene, trained, before)
    return held[name]

  return start


def _solve(place: Stage, cell: Cell, begun: Start) -> Info:
  """What a cell's file holds."""
  kind = cell.case.manipulation
  started = time.monotonic()
  points, histogram = solve.cell(
    rng.named(begun.scene.key, 'method', cell.method),
    place.methods[kind, cell.method],
    place.worlds[kind],
    begun.scene,
    begun.original,
    begun.before,
    cell.fraction,
    place.config.evaluate.batch_size,
  )
  untouched = measure.values(
    place.worlds[kind], begun.scene, begun.before, begun.before, 1.0
  )
  return {
    'case': cell.case._asdict(),
    'train_size': int(begun.scene.problem.truth.size),
    'before': untouched,
    'identified_fraction': cell.fraction,
    'method': cell.method,
    'information': roster.information(place.methods[kind, cell.method]),
    'points': points,
    'importance': histogram if cell.method == 'ssd' else None,
    'seconds': round(time.monotonic() - started, 3),
    'device': jax.devices()[0].device_kind,
  }


class _Clock(NamedTuple):
  """When to stop: a moment, and how long each method's cells took."""

  deadline: float | None
  spent: dict[str, float]

  def allows(self, method: str) -> bool:
    """Whether a cell of this method is likely to end in time."""
    if self.deadline is None:
      return True
    return time.monotonic() + self.spent.get(method, 0.0) < self.deadline


def run(place: Stage, minutes: float | None = None) -> bool:
  """Does what is not done yet.

  Args:
    place: see `stage`.
    minutes: after which no further cell is begun; None for no limit.

  Returns:
    Whether all cells are done.
  """
  config = place.config
  clock = _Clock(
    None if minutes is None else time.monotonic() + 60 * minutes, {}
  )
  todo = cells.cells(config)
  names = {cell: cells.address(config, place.summed, cell) for cell in todo}
  absent = {c for c in todo if records.read(place.folder, names[c]) is None}
  waiting = {cell.case for cell in absent}
  start = _starting(place)

  def begin(case: Case) -> None:
    if case in waiting and clock.allows('original'):
      began = time.monotonic()
      start(case)
      clock.spent['original'] = time.monotonic() - began

  def work(cell: Cell) -> None:
    if cell in absent and not clock.allows(cell.method):
      return
    if cell in absent:
      begun, began = start(cell.case), time.monotonic()
      records.write(place.folder, names[cell], _solve(place, cell, begun))
      clock.spent[cell.method] = time.monotonic() - began
    record = records.read(place.folder, names[cell])
    points = record['points'] if record else []
    best = selection.paper(points)
    note(cell, None if best is None else points[best], cell in absent)

  workers.spread(cells.cases(config), begin)
  workers.wait('originals')
  with live.display(len(todo), _columns(config)) as note:
    workers.spread(todo, work)
  workers.wait('cells')
  left = [c for c in todo if records.read(place.folder, names[c]) is None]
  if left:
    print(
      f'the time is up with {len(left)} of {len(todo)} cells to do: the same '
      'command continues',
      file=sys.stderr,
    )
  return not left


def _columns(config: ConfigDict) -> list[float]:
  return sorted({*map(float, config.identified_fractions), 1.0})


def load(config: ConfigDict, folder: pathlib.Path) -> Stage:
  """Checks the settings, loads the data and binds everything.

  Raises:
    UserError: bad data or settings, in one line.
  """
  settings.check(config)
  return stage(config, folder, binding.load(config).dataset)
