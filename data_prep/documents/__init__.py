"""The first stage (ingest), and the files of documents that later stages read."""
