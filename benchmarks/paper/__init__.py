"""The paper's tables, trained anew: rows, their runs, statistics and pictures. ``paper_tables.py`` is the program."""
