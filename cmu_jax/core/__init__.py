"""Types, errors, random keys, trees, files, configs and checkpoints."""
