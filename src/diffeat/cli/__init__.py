"""The command line: thin faces over the library, heavy imports inside the commands."""
