"""A tokenizer of one character a token: what the tests of generation need of one."""

from __future__ import annotations


class Letters:
    """Id i is the character with the code 192 + i."""

    name, vocab_size, eod_id, fingerprint = "letters", 250, 0, "letters"

    def encode(self, text):
        return [ord(letter) - 192 for letter in text]

    def encode_batch(self, texts):
        return [self.encode(text) for text in texts]

    def decode(self, ids):
        return "".join(chr(192 + id) for id in ids)

    def begins_with(self):
        return []

    def token_id(self, token):
        return None

    def files(self):
        return {}
