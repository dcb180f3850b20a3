"""Objectives: pure functions from what a model returns to a numerator. No megatron, no collectives.

An objective returns `Loss(sum, weight, metrics)` over one micro-batch. Nobody here divides: the
engine does, once, by the weight of the whole optimizer step, so the value is the same under every
layout and every way of cutting the batch.
"""
