"""Images on this machine: fetched once, kept in a cache, named by their bytes."""
