"""Forgetting random subsets of a training set: how near to retraining is it?"""
