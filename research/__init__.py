"""One question, one script, one table: research on the public functions."""
