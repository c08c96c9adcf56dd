"""The settings of an ensemble study: one base, and their checks."""

from ml_collections import ConfigDict

from cmu_jax.core import errors
from cmu_jax.studies.engine import checks, recipes

DEFAULT = ('plain', 'clipped', 'lotos', 'trs')
METHODS = (*DEFAULT, 'lotos_unclipped')
THREATS = ('correct', 'paper_compat_clamp')
_NORMALISERS = ('paper', 'code_compat_norm')
_RANGES = {
  'members': '[2, inf)',
  'clip.bound': '(0, inf)',
  'clip.every': '[1, inf)',
  'lotos.strength': '[0, inf)',
  'lotos.mal': '[0, inf)',
  'lotos.vectors': '[1, inf)',
  'lotos.rounds': '[1, inf)',
  'trs.radius': '(0, inf)',
  'trs.steps': '[1, 1000000]',
  'trs.cosine': '[0, inf)',
  'trs.smooth': '[0, inf)',
  'attack.radius': '(0, inf)',
  'attack.steps': '[1, 1000000]',
  'attack.step': '(0, 1]',
  'evaluate.batch_size': '[1, inf)',
  'checkpoint_seconds': '[0, inf)',
}


def base(name: str) -> ConfigDict:
  """Every setting of a run, with the defaults of the papers.

  Sources: LOTOS (ICLR 2025) and its rebuttal; TRS, arXiv 2104.00671, with the
  settings that LOTOS gives it.
  """
  return ConfigDict(
    dict(
      name=name,
      task='ensemble',
      smoke=False,  # shrunk: every stage runs, nothing is evidence
      **recipes.source(),
      seeds=(0, 1, 2),
      proxy_fraction=0.0,  # no method here takes a proxy
      methods=DEFAULT,  # plain: members on their own; clipped: with bounded
      # norms; lotos: clipped with the penalty; trs: with its own two terms;
      # lotos_unclipped: the penalty alone
      members=3,  # N
      model=dict(name='resnet18', width=64, dtype='float32'),
      input=recipes.pixels(),
      train=recipes.training(
        batch_size=128,
        optimizer='sgd',
        weight_decay=5e-4,
        learning_rate=0.1,
        schedule='multistep',
        milestones=(40, 80, 120, 160),
        factor=0.1,
        epochs=121,
      ),
      clip=dict(
        bound=1.0,  # c, on the norm of every convolution and dense layer
        every=100,  # steps between clips
      ),
      lotos=dict(
        strength=2.0,  # lambda
        mal=0.8,  # maximum allowed length; must lie below clip.bound
        vectors=1,  # k
        rounds=100,  # of PowerQR before the first step
        normaliser='paper',  # paper, code_compat_norm (then strength 0.05)
      ),
      trs=dict(
        cosine=40.0,  # lambda_a
        smooth=2.5,  # lambda_b
        radius=8 / 255,  # of pixels in [0, 1]
        steps=6,
      ),
      attack=dict(
        radius=0.04,  # linf, of pixels in [0, 1]; PGD with a random start
        steps=50,
        step=0.1,  # of the radius
      ),
      threats=THREATS,  # correct; paper_compat_clamp: as released, on images
      # that are normalised and then clipped to [0, 1]
      evaluate=dict(
        batch_size=512,
        lipschitz=True,  # bound the first member's Lipschitz constant
      ),
      checkpoint_seconds=20.0,  # at most so much of a training is lost
    )
  )


def check(config: ConfigDict) -> None:
  """Refuses settings that cannot be, whatever the data are.

  Raises:
    UserError: names the field, its value and a remedy.
  """
  checks.check_seeds(config)
  for field, names, known in (
    ('methods', config.methods, METHODS),
    ('threats', config.threats, THREATS),
    ('lotos.normaliser', config.lotos.normaliser, _NORMALISERS),
  ):
    checks.check_names(field, names, known)
  checks.check_ranges(config, _RANGES)
  errors.check(
    config.lotos.mal < config.clip.bound or 'lotos' not in config.methods,
    f'config.lotos.mal is {config.lotos.mal} with config.clip.bound='
    f'{config.clip.bound}: the penalty would be idle; use a smaller mal, for '
    'example 0.8 of the bound',
  )
  checks.check_network(config, 'train')


def shrink(config: ConfigDict) -> ConfigDict:
  """Shrinks a config to a smoke run: one seed, two members, few steps."""
  recipes.shrink(config, {'seeds': 1}, (1000, 100))
  config.members = 2
  config.train.update(
    epochs=0, steps=12, schedule='constant', milestones=(), factor=1.0
  )
  config.clip.every = 4
  config.lotos.rounds = 10
  config.trs.steps = 2
  config.attack.steps = 3
  return config
