"""Protocols, evaluation, tables."""
