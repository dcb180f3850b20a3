"""What a model is worth: likelihoods of text, answers to tasks, and what more answers are worth."""
