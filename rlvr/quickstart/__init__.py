"""A task, a tokenizer and a small base model to train, generated without any download."""
