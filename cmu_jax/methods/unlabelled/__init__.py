"""Repairs from unlabelled pictures of the task alone."""
