"""The names under which each study offers methods, in the order of its tables.

A method has one canonical name, see `methods.catalogue`. Each study keeps the
name that its paper prints: a row of the corrective benchmark says `rewod` where
a row of AMUN's tables says `retrain`. Configs and results.json have these.
"""

from collections.abc import Iterable
from typing import NamedTuple

from cmu_jax.methods import catalogue

CUTS, CORRECTIVE, CLASSES = 'cuts', 'corrective', 'classes'
# `membership` audits the methods of SUBSETS, under their names there.
SUBSETS = 'subsets'
COMMAND = 'unlearn'


def _same(*names: str) -> dict[str, str]:
  return {name: name for name in names}


def _sorted_by_alias(names: dict[str, str]) -> dict[str, str]:
  return dict(sorted(names.items(), key=lambda pair: pair[1]))


_SUBSETS = {
  **_same('none', 'retrain'),
  **{'finetune': 'ft', 'random_label': 'rl', 'alternating_ascent': 'ga'},
  **{'boundary_shrink': 'bs', 'l1_sparse': 'l1'},
  **_same('salun', 'amun', 'amun_salun'),
  **{'random_label_alone': 'rl_alone', 'gradient_ascent': 'ga_alone'},
  **{'boundary_shrink_alone': 'bs_alone'},
  **_same('salun_alone', 'amun_alone', 'amun_salun_alone'),
  'random_label_redrawn': 'rl_redrawn',
  'random_label_redrawn_alone': 'rl_redrawn_alone',
  **_same('salun_redrawn', 'salun_redrawn_alone'),
  **_same('amun_ffgsm', 'amun_ffgsm_alone'),
  **_same('amun_transferred', 'amun_transferred_alone'),
  **_same(*(name for name in catalogue.ENTRIES if name.startswith('set_'))),
}
_RETRAIN, _FINETUNE = {'retrain': 'rewod'}, {'finetune': 'cf'}
# Methods of the benchmark that are made of others.
_COMPOSED = {
  **_same('by_labels', 'clustering_when_needed'),
  'cuts_forget_grid': 'cuts_grid',
  'cuts_forget_simplex': 'cuts_simplex',
  'retrain_twice': 'rewod_twice',
  **{
    f'{detector}_{name}': f'{detector}_{alias}'
    for detector in catalogue.DETECTORS
    for name, alias in {
      **_RETRAIN,
      **_FINETUNE,
      **_same('ssd', 'relabel_second', 'by_labels'),
    }.items()
  },
}

# The names that a study offers: canonical -> as its papers, configs and
# results.json have it. The order is that of its tables.
NAMES: dict[str, dict[str, str]] = {
  CORRECTIVE: {
    # Table 1 of the benchmark, from doing nothing to retraining.
    **_same('none', 'badt'),
    **_FINETUNE,
    **_same('ssd', 'scrub'),
    **_RETRAIN,
    **_same('scrub_original', 'assd', 'potion'),
    'cuts_forget': 'cuts',
    **_same('sap', 'neggrad_plus', 'npo', 'gradient_ascent', 'random_label'),
    **_same('salun', 'l1_sparse', 'relabel_second', 'amun', 'amun_no_forget'),
    **_same('boundary_shrink', 'cf_k', 'eu_k'),
    **_sorted_by_alias(_COMPOSED),
    # References with clean images, which other methods do not have.
    **_same('fine_pruning', 'bn_recalibration'),
  },
  CUTS: {
    'none': 'corrupted',
    **_same('cuts', 'cuts_safe', 'cuts_simplex', 'cuts_best_alpha'),
    **_same('information_maximization', 'information_maximization_safe'),
    **_same('random_vector', 'random_vector_uniform', 'distill_projected'),
    **_same('distill_both', 'distill_untriggered', 'finetune_clean_proxy'),
    **_same('oracle'),
  },
  SUBSETS: _SUBSETS,
  CLASSES: {
    **{name: _SUBSETS[name] for name in ('none', 'retrain', 'finetune')},
    **{name: _SUBSETS[name] for name in ('random_label', 'alternating_ascent')},
    **{name: _SUBSETS[name] for name in ('salun', 'boundary_shrink')},
    'l1_sparse': 'l1',
    'svd_projection': 'svd',
    # The benchmark's SCRUB is another method than the published one.
    'scrub_original': 'scrub',
    'logit_mask': 'mask',
    **_same('rwft', 'trw', 'trw_sample'),
  },
  COMMAND: _same(
    *('amun', 'finetune', 'l1_sparse', 'random_label', 'salun', 'neggrad_plus'),
    *('npo', 'scrub', 'ssd', 'relabel_second', 'trw', 'boundary_shrink'),
    'gradient_ascent',
  ),
}
# A method that no paper's table has comes after those of the tables.
for _name, _entry in catalogue.ENTRIES.items():
  for _study in _entry.studies:
    NAMES[_study].setdefault(_name, _name)

# Parts of `types.MethodInputs` in the words of each study; 'forgotten' is the
# forget set where a sentence takes its words.
SYMBOLS: dict[str, dict[str, str]] = {
  CORRECTIVE: {
    'retain': 'S_tr without S_f',
    'forget': 'S_f',
    'forgotten': 'S_f',
    'proxy': 'corrupted proxy',
    'clean_proxy': 'clean proxy',
    'validation': 'validation labels',
    'ordinary': 'unlabelled images',
  },
  CUTS: {'ordinary': 'unlabelled proxy images'},
  SUBSETS: {'retain': 'D_R', 'forget': 'D_F', 'forgotten': 'D_F'},
  CLASSES: {'retain': 'D_R', 'forget': 'D_F', 'forgotten': 'the class'},
  COMMAND: {
    'retain': 'the pictures to keep',
    'forget': 'the forget set',
    'forgotten': 'the forget set',
  },
}


def find(study: str, name: str) -> str:
  """The canonical name of a method that a study calls by `name`.

  Raises:
    KeyError: the study offers no such method.
  """
  for canonical, alias in NAMES[study].items():
    if alias == name:
      return canonical
  raise KeyError(f'{name!r} is no method of the study {study!r}')


def entry(study: str, name: str) -> catalogue.Entry:
  """The entry of a method by its name in a study."""
  return catalogue.ENTRIES[find(study, name)]


def describe(study: str, name: str) -> str:
  """Describes a method with the names and symbols of a study."""
  aliases = {entry: entry for entry in catalogue.ENTRIES} | NAMES[study]
  words = aliases | SYMBOLS.get(study, {})
  return entry(study, name).description.format_map(words)


def information(study: str, needs: Iterable[str]) -> str:
  """Names the inputs of a method besides the weights, as a study does."""
  return ' + '.join(['weights', *(SYMBOLS[study][name] for name in needs)])


# Rows below all others: they see what no method may see.
_REFERENCES = ('fine_pruning', 'bn_recalibration', 'oracle')


def sort_names(study: str, names: Iterable[str]) -> tuple[str, ...]:
  """Sorts distinct names of a study's methods in the order of its tables.

  Names that are not in the catalogue are sorted, before the references.
  """
  distinct = dict.fromkeys(names)
  offered = NAMES[study].values()
  unknown = sorted(name for name in distinct if name not in offered)
  listed = [name for name in offered if name in distinct]
  references = [name for name in listed if name in _REFERENCES]
  methods = [name for name in listed if name not in _REFERENCES]
  return (*methods, *unknown, *references)


class Presentation(NamedTuple):
  """The presentation of a method in tables of the CUTS study.

  Attributes:
    label: its name in tables and figures.
    note: a limitation that readers must know.
  """

  label: str
  note: str = ''


_LABELS = {
  'corrupted': Presentation('do nothing'),
  'cuts': Presentation('CUTS'),
  'cuts_safe': Presentation('CUTS, safe alpha', 'may leave the model as it is'),
  'cuts_simplex': Presentation(
    'CUTS, simplex', 'mean of one network a proxy draw'
  ),
  'cuts_best_alpha': Presentation(
    'CUTS, best alpha', 'diagnostic: uses test labels'
  ),
  'information_maximization': Presentation(
    'information maximisation', 'all images at once, no evidence'
  ),
  'information_maximization_safe': Presentation(
    'safe information maximisation', 'may leave the model as it is'
  ),
  'random_vector': Presentation('random vector', 'control'),
  'random_vector_uniform': Presentation('random vector, uniform', 'control'),
  'distill_projected': Presentation(
    'projected distillation', 'keeps the class'
  ),
  'distill_both': Presentation('distillation, both copies', 'no projection'),
  'distill_untriggered': Presentation(
    'distillation, triggered copies', 'baseline'
  ),
  'finetune_clean_proxy': Presentation(
    'fine-tune, clean proxy', 'needs clean labels'
  ),
  'oracle': Presentation('oracle', 'needs the clean training data'),
}


def present(name: str, task: str = 'label_noise') -> Presentation:
  """The label and the note of a row of the CUTS study."""
  if name == 'cuts_best_alpha' and task == 'poison':
    # The lowest attack success chooses this alpha, and no test label does.
    return Presentation('CUTS, best alpha', 'diagnostic')
  return _LABELS.get(name, Presentation(name.replace('_', ' ')))


# Colours of the methods in table 1 of the corrective benchmark: the same in
# every figure, whatever other methods a run has.
COLOURS = {
  'none': '#6b7280',
  'badt': '#CC79A7',
  'cf': '#E69F00',
  'ssd': '#0072B2',
  'scrub': '#D55E00',
  'rewod': '#22262b',
}
