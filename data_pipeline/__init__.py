"""Raw text to token shards to training samples, on CPUs, with numpy and no torch.

    documents -> tokenizer -> shards (.bin/.idx) -> samples
    `-------- prepare_corpus --------'

Every arrow is a file of the same name; nothing is imported until it is asked for.
"""
