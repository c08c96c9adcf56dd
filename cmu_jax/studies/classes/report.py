"""The report of the study of forgotten classes, from its results.json."""

import functools

from cmu_jax.report import frame, page
from cmu_jax.report.frame import Results
from cmu_jax.studies.classes import figures, tables, verdict

_REQUIRED = {
  'class_names': list,
  'train_size': int,
  'test_size': int,
  'unseen_images': dict,
  'methods': dict,
}
_ROW = ('method', 'information', 'seed', 'forget_class', 'diverged')
_GLOSSARY = {
  'none': 'Doing nothing: the network as it was trained on all classes.',
  'retrain': (
    'Training anew without the class: the gold standard. Each of these '
    'networks is set beside the others.'
  ),
  'mask': 'Forbidding the answer; all else stays. Nothing is forgotten.',
  'ACC_r, ACC_f': (
    'Accuracy on unseen images of the retained classes, and of the forgotten '
    'one. Retraining has ACC_f 0.'
  ),
  'MIS': (
    'The share of forgotten images that an attack on the confidence holds for '
    'unseen. It is 100 of every network that no longer answers the class, '
    'retrained or not, and says little: no image that it was fitted on is as '
    'unsure of its label as those.'
  ),
  'U-LiRA': (
    'Whether the networks that unlearned can be told from those that were '
    'retrained, image by image, by the confidence in one class: 50 is chance. '
    'In the row retrain some retrained networks are set against the others: '
    'what chance looks like with so few.'
  ),
  'MIA-NN': (
    'A test on the pattern that is left in the logits of the other classes '
    '(arXiv 2506.20893). The published kernel, penalty and folds are not '
    'known; ours are 1, radial, 5.'
  ),
  'TV': (
    'Total variation: half the sum of absolute differences of two mean '
    'answers. 0 is alike; 100 is no class in common.'
  ),
  'noise floor': (
    'How far retrained networks are from each other. Nothing can be nearer to '
    'retraining than that, except by chance.'
  ),
  'rwft, trw': (
    "Teaching the original network's own answers without the class: just "
    'renormalised, or tilted towards classes whose rows of the last layer are '
    'like its own.'
  ),
  'point': 'A hundredth of a rate: from 0.90 to 0.85 is a fall of 5 points.',
}


def _sections(results: Results) -> dict[str, str]:
  config, names = results['config'], results['class_names']
  join = lambda field: ', '.join(str(names[c]) for c in config[field])
  text = (
    f'The classes {join("forget_classes")} of {config["dataset"]} were '
    'forgotten, each by itself, by networks of '
    f'{config["model"]["name"]} with {results["train_size"]} training images. '
    f'Hyperparameters were chosen on the classes {join("tuning_classes")} '
    'and on images held out of the training set; '
    f'{results["test_size"]} test images are only reported on.'
  )
  return {
    'What an audit can and cannot show': page.paragraphs([verdict.LIMITS]),
    'What was to be forgotten': page.paragraphs([text]),
  }


REPORT = frame.Report(
  read=functools.partial(
    frame.read_results,
    tasks='class_unlearning',
    required=_REQUIRED,
    sections=dict.fromkeys(('rows', 'noise', 'tuning'), _ROW)
    | {'ulira': ('method', 'forget_class', 'statistic', 'ulira_auc')},
  ),
  verdict=verdict.describe,
  tables=tables.build_tables,
  figures=figures.draw_figures,
  captions=figures.CAPTIONS,
  sections=_sections,
  glossary=_GLOSSARY,
)
