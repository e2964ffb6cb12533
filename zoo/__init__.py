"""mdzoo's zoo room: builds, measures, publishes and opens model zoos."""

from importlib.metadata import version

from zoo.reader import Zoo, open_zoo

open = open_zoo  # so that `zoo.open(folder)` reads as it should

__version__ = version("mdzoo")

__all__ = ["Zoo", "__version__", "open", "open_zoo"]
