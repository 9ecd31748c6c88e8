"""Other packages that attribute with gradients, beside ripcurrent: same rows, threads, scope and type, one table."""
