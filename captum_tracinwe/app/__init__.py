"""What the command line does: files of texts, small models trained on them, the demo, and the commands themselves."""
