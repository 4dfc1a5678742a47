"""Times and costs of a run before it starts: by counts and by measured rates. Imports no torch."""
