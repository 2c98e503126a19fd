"""WHEN: the flows a person deploys and runs, and the command line."""
