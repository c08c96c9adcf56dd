"""The catalogue of methods by their canonical names.

Reports read it, so it imports no JAX: `methods.factories` makes the methods,
`methods.study_names` has the names that each paper prints.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

# The share of the weights that move, in SalUn and in AMUN with it.
SALIENT_SHARE = 0.5


class Entry(NamedTuple):
  """A method.

  Attributes:
    family: the kind of method.
    needs: parts of `types.MethodInputs` that it reads.
    description: a verb phrase. Braces name sets of samples and other methods,
      which `study_names.describe` puts into the words of a study.
    base: the factory that makes it; '' for the one of the same name.
    options: keyword arguments of the factory that make this variant.
    studies: those that offer it under this name besides the tables of
      `study_names`, which have the names and the order of the papers.
  """

  family: str
  needs: tuple[str, ...]
  description: str
  base: str = ''
  options: Mapping[str, Any] = {}
  studies: tuple[str, ...] = ()


_RETAIN, _FORGET, _BOTH = ('retain',), ('forget',), ('retain', 'forget')
_PROXY, _CLEAN = ('proxy',), ('clean_proxy',)
_ORDINARY = ('ordinary',)
_ALONE = {'retain': False}
# Sets of AMUN, see `amun.PARTS`.
_WITHOUT_FORGET = ('retain', 'adversarial')
_WITHOUT_RETAIN = ('forget', 'adversarial')

ENTRIES: dict[str, Entry] = {
  'none': Entry('reference', (), 'does nothing'),
  'retrain': Entry('retraining', _RETAIN, 'trains a new network on {retain}'),
  'oracle': Entry('reference', (), 'trains on the clean training set'),
  'finetune': Entry('retraining', _RETAIN, 'fine-tunes on {retain}'),
  'cf_k': Entry(
    'retraining', _RETAIN, 'fine-tunes the last layers on {retain}'
  ),
  'eu_k': Entry(
    'retraining', _RETAIN, 'trains the last layers anew on {retain}'
  ),
  'l1_sparse': Entry(
    'retraining',
    _RETAIN,
    'fine-tunes on {retain} with an l1 penalty on all weights',
  ),
  'retrain_twice': Entry(
    'retraining',
    _BOTH,
    '{retrain}, then again with the part of {forget} that it confirms',
  ),
  'gradient_ascent': Entry('ascent', _FORGET, 'raises the loss on {forget}'),
  'alternating_ascent': Entry(
    'ascent', _BOTH, 'raises the loss on {forget} between epochs on {retain}'
  ),
  'neggrad_plus': Entry(
    'ascent',
    _BOTH,
    'lowers the loss on {retain} and raises it on {forget} in each step',
  ),
  'npo': Entry(
    'ascent',
    _BOTH,
    'lowers the loss on {retain} and raises it on {forget} up to a bound',
  ),
  'badt': Entry(
    'teachers',
    _BOTH,
    'imitates a random network on {forget}, and the original elsewhere',
  ),
  'scrub': Entry(
    'teachers',
    _BOTH,
    'first leaves labels and old answers on {forget}, then trains on {retain}',
  ),
  'scrub_original': Entry(
    'teachers',
    _BOTH,
    'leaves the old answers on {forgotten}, and keeps them elsewhere',
  ),
  'random_label': Entry(
    'relabelling', _BOTH, 'trains on {forget} with random labels'
  ),
  'relabel_second': Entry(
    'relabelling',
    _BOTH,
    'trains on {forget} with the next likeliest classes as labels',
  ),
  'salun': Entry(
    'relabelling',
    _BOTH,
    '{random_label}, in the weights that {forget} depends on most',
    'random_label',
    {'share': SALIENT_SHARE},
  ),
  'boundary_shrink': Entry(
    'relabelling',
    _BOTH,
    'trains on {forget} with the nearest other classes as labels',
  ),
  'by_labels': Entry(
    'relabelling',
    _BOTH,
    '{retrain_twice} where {forget} has one label, else {relabel_second}',
  ),
  'ssd': Entry(
    'dampening',
    _BOTH,
    'shrinks the weights that matter for {forget} and little elsewhere',
  ),
  'assd': Entry(
    'dampening', _BOTH, '{ssd}, as far as the sizes of the sets say'
  ),
  'potion': Entry('dampening', _BOTH, '{ssd}, until {forget} loses its labels'),
  'sap': Entry(
    'projection', _RETAIN, 'projects layers onto the inputs of trusted samples'
  ),
  'svd_projection': Entry(
    'projection',
    _BOTH,
    'projects layers off the inputs that only the class has',
  ),
  'logit_mask': Entry(
    'class', _FORGET, 'never answers with the class, and forgets nothing'
  ),
  'rwft': Entry(
    'class',
    _BOTH,
    'trains on {forget} with the old answers, the class left out',
    'trw',
  ),
  'trw': Entry(
    'class',
    _BOTH,
    'trains on {forget} with the old answers, moved to similar classes',
  ),
  'trw_sample': Entry(
    'class',
    _BOTH,
    '{trw}, by the classes that each image is like',
    'trw',
    {'by_sample': True},
  ),
  'amun': Entry(
    'adversarial',
    _BOTH,
    'trains on adversarial images close to {forget} as well',
  ),
  'amun_no_forget': Entry(
    'adversarial',
    _BOTH,
    '{amun}, without {forget} itself',
    'amun',
    {'sets': _WITHOUT_FORGET},
  ),
  'amun_salun': Entry(
    'adversarial',
    _BOTH,
    '{amun}, in the weights that {forget} depends on most',
    'amun',
    {'share': SALIENT_SHARE},
  ),
  'cuts': Entry(
    'task arithmetic', _PROXY, 'subtracts the task vector of a corrupted proxy'
  ),
  'cuts_safe': Entry(
    'task arithmetic',
    _PROXY,
    '{cuts}, with an alpha that held-out images confirm',
  ),
  'cuts_simplex': Entry(
    'task arithmetic',
    _PROXY,
    '{cuts}, with one network for each draw of the proxy',
  ),
  'cuts_best_alpha': Entry(
    'task arithmetic', _PROXY, '{cuts}, with an alpha chosen by test labels'
  ),
  'information_maximization': Entry(
    'unlabelled',
    _ORDINARY,
    'makes the answers on {ordinary} sure and varied, without a label',
    studies=('corrective',),
  ),
  'information_maximization_safe': Entry(
    'unlabelled',
    _ORDINARY,
    '{information_maximization}, if runs on halves of them agree',
  ),
  'random_vector': Entry('control', (), 'subtracts Gaussian noise'),
  'random_vector_uniform': Entry('control', (), 'subtracts uniform noise'),
  'cuts_forget': Entry(
    'task arithmetic', _FORGET, 'subtracts the task vector of {forget}'
  ),
  'cuts_forget_grid': Entry(
    'task arithmetic',
    _FORGET,
    '{cuts_forget}, as far as validation labels say',
    'cuts_forget',
  ),
  'cuts_forget_simplex': Entry(
    'task arithmetic',
    _FORGET,
    '{cuts_forget}, with several vectors that answer together',
  ),
  'distill_untriggered': Entry(
    'backdoor',
    _PROXY,
    'trains triggered images towards their answers without the trigger',
    'distill_both',
    {'untriggered': False},
  ),
  'distill_both': Entry(
    'backdoor',
    _PROXY,
    '{distill_untriggered}, and the plain images too',
  ),
  'distill_projected': Entry(
    'backdoor',
    _PROXY,
    '{distill_both}, along directions that other answers do not need',
  ),
  'finetune_clean_proxy': Entry(
    'retraining', _CLEAN, 'fine-tunes on the clean proxy'
  ),
  'fine_pruning': Entry(
    'backdoor',
    _CLEAN,
    'removes silent features, then fine-tunes on the clean proxy',
  ),
  'bn_recalibration': Entry(
    'backdoor', _CLEAN, 'takes running statistics from the clean proxy'
  ),
}

# Variants without the retain set, and with labels drawn at every access.
ENTRIES |= {
  f'{name}_alone': ENTRIES[name]._replace(
    needs=_FORGET,
    description=f'{{{name}}} without {{retain}}',
    base=ENTRIES[name].base or name,
    options={**ENTRIES[name].options, **options},
  )
  for name, options in (
    ('random_label', {'retain': False}),
    ('salun', {'retain': False}),
    ('boundary_shrink', {'retain': False}),
    ('amun', {'sets': _WITHOUT_RETAIN}),
    ('amun_salun', {'sets': _WITHOUT_RETAIN}),
  )
}
ENTRIES |= {
  f'{name}_redrawn{end}': Entry(
    'relabelling',
    _BOTH if retain else _FORGET,
    f'{{{name}{end}}}, with new labels at every access',
    'redrawn_label',
    {'share': share, 'retain': retain},
  )
  for name, share in (('random_label', None), ('salun', SALIENT_SHARE))
  for end, retain in (('', True), ('_alone', False))
}

# Adversarial sets of AMUN along a single FGSM direction, or of the network of
# another seed.
ENTRIES |= {
  f'amun_{kind}{end}': ENTRIES[f'amun{end}']._replace(
    description=f'{words}, {source}',
    base='amun_ffgsm' if kind == 'ffgsm' else 'amun',
  )
  for kind, source in (
    ('ffgsm', 'D_A by FFGSM'),
    ('transferred', 'D_A of the network of another seed'),
  )
  for end, words in (('', '{amun}'), ('_alone', '{amun} without {retain}'))
}

# The ablation of AMUN, arXiv 2503.00917, figure 1: other elements in place of
# D_A, in three kinds of sets.
ABLATION_SETS = {
  '': (('retain', 'forget', 'adversarial'), 'D and'),
  '_forget': (_WITHOUT_RETAIN, 'D_F and'),
  '_alone': (('adversarial',), 'nothing but'),
}
ABLATION_ELEMENTS = {
  'adv': '(x_adv, y_adv)',
  'orig': '(x, y)',
  'advl': '(x, y_adv)',
  'rl': '(x, a third label)',
  'arl': '(x_adv, a third label)',
  'ars': '(as far in a random direction, y_adv)',
}
ENTRIES |= {
  f'set_{element}{end}': Entry(
    'ablation',
    _BOTH if 'retain' in sets else _FORGET,
    f'trains on {words} {content}',
    'amun',
    {'element': element, 'sets': sets},
  )
  for element, content in ABLATION_ELEMENTS.items()
  for end, (sets, words) in ABLATION_SETS.items()
}

# A detector enlarges the forget set, then a method runs.
DETECTORS = (
  *('spectral', 'clustering', 'knn', 'knn_labels', 'supervised'),
  'adversarial',
)
DETECTED = ('retrain', 'finetune', 'ssd', 'relabel_second', 'by_labels')
ENTRIES |= {
  f'{detector}_{name}': ENTRIES[name]._replace(
    family='detection',
    needs=_BOTH,
    description=f'{{{name}}} with a forget set that {detector} enlarges',
    base='detected',
  )
  for detector in DETECTORS
  for name in DETECTED
}
ENTRIES['clustering_when_needed'] = Entry(
  'detection',
  _BOTH,
  '{retrain} where that suffices, else {clustering_by_labels}',
  'when_needed',
)
