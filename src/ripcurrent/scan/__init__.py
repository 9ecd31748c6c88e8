"""Scores of rows: options, shards, resume, executors, score columns, and the one reader of a finished scan."""
