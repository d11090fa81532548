"""How fast the package is, against the obvious way and against the machine: `make benchmark`, see `__main__`."""
