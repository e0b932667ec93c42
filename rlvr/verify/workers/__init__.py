"""The processes in which verifiers run, from the pool on the driver down to one worker."""
