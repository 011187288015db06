"""A bundle behind HTTP: verdicts in batches, a page, metrics."""
