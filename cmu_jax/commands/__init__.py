"""The command line: repair, unlearn, audit and study."""
