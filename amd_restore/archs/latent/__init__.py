"""Networks and autoencoders of diffusers, frozen or with low-rank adapters (LoRA), and their text embeddings."""
