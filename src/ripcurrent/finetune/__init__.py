"""Recipes and fine-tuning on exactly the tokens that are scored.

Options and recipes are light; the rest imports torch, transformers and TRL when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
