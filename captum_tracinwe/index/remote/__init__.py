"""An index in a store that fsspec reaches: pushed there from a directory, read through copies in a cache folder."""
