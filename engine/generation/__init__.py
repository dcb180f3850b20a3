"""Text from a model on its parallel backbone: requests in, tokens with their log-probabilities out."""
