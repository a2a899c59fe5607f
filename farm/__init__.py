"""A benchmark farm for inference optimizations: measure one job here, or a matrix over a rack."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
__version__ = "0.1.0"

__all__ = ["__version__"]
