"""Between text and tokens: tokenizers, conversations, what ends a text."""
