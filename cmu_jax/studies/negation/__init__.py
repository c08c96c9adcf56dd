"""A CLIP made to forget data sets by negated task vectors: a whole run."""
