"""One model made of several: of their weights, without training."""
