"""The tokenizer: trained on the kept training documents, or an existing one that is checked and taken over."""
