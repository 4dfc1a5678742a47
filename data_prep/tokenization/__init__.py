"""Training of the tokenizer, and encoding of the documents."""
