"""Training objectives: pure numpy functions of (rows, seed, pass, row numbers); one file each."""
