"""The corrective unlearning benchmark: problems, sweep, selection, tables."""
