"""From a response's text to a verdict: verifiers, and the pool that runs them safely."""
