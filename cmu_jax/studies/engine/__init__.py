"""The parts that all studies share."""
