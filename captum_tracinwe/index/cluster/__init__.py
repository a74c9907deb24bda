"""An index built by Ray's tasks and searched by Ray's actors, on one machine or many."""
