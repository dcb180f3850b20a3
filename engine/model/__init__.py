"""From a `ModelConfig` to this rank's pipeline chunks of a megatron-core GPT model."""
