"""CUTS: a task vector of the corruption, and how far to walk along it."""
