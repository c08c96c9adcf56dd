"""Selective synaptic dampening and its relatives."""
