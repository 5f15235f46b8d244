"""Pictures as rows of prompts: what is read of them, the encoder, and where their rows stand."""
