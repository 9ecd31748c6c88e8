"""Experiments: arms × seeds, their rows, what they answered, and tables that say what is significant."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
