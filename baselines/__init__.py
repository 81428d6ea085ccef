"""The explainers and the models under test: one file each."""
