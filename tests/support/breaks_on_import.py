"""A module that cannot be imported, as a module of somebody else may be."""

raise RuntimeError("this module breaks when it is imported")
