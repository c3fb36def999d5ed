"""The command line: `verbs.py` declares the commands, `command_line.py` parses them, and each noun has one file."""
