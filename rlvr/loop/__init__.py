"""The run: where groups come from, the training loop, its state and its cluster."""
