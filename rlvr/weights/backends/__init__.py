"""The weight backends, one file each; ``rlvr.weights.base`` says what one is."""
