"""Trivium's engine: one parallel backbone from configuration to trained weights.

Importing this package imports nothing heavy; rooms that need torch or megatron-core import them
themselves, so that `--help`, `--dry-run` and every configuration error answer at once.
"""
