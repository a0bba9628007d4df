"""The command line, `qf`: thin over the library."""
