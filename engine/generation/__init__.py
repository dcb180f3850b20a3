"""Text from a model on its parallel backbone: requests in, tokens and log-probabilities out."""
