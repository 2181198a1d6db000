"""The command line: one module for each group of commands, with the parser and the handler of each command."""
