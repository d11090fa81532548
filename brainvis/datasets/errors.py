"""The one exception of this room, in a module that imports nothing, so that catching it costs nothing."""


class DatasetError(Exception):
    """Data that cannot be used: the message says which file, which trial and what to do."""
