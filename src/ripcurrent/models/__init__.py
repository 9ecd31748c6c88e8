"""Chat models: loading them from a hub id, a folder, a GGUF file or a package, with device and type chosen.

Names are loaded when first used: most of them import torch, and a reader of manifests needs `ModelInfo` alone.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
