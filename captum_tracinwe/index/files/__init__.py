"""How an index lies on disk: its manifest, its segments, their names and checksums; and files that are whole or not there."""
