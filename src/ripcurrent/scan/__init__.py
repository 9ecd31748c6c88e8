"""Scores of rows: options, shards, resume, executors, score columns, and the one reader of a finished scan.

Names are loaded when first used: the command line's help needs the options alone, and a reader of scores no model.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
