"""Per-row gradient products from layer inputs and output gradients, one pure function per layer kind.

Every function takes a layer's inputs ``a`` and the gradient ``b`` of the summed row losses at the layer's outputs, both
padded to ``(rows, tokens, features)`` with zero gradient at padding, and never forms a whole-model gradient of a row.
Formulas: methods table of ``docs/methods.md``; each has an oracle in ``tests/gradients/kernels``.
"""
