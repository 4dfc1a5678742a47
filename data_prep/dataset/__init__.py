"""The contract between data preparation and training: rows (packed sequences) on disk.

`pipeline` imports nothing else of `data_prep`, and nothing here imports other packages of it.

- ``manifest``: the schema of ``manifest.json``, which names all files of a data set.
- ``shard_writer``, ``row_reader``: write shards; read any row by its number, without scanning.
- ``verify``: checks the files against the manifest.
- ``tokenizer``: loads ``tokenizer.json`` of any kind.
- ``special_tokens``: which tokens of a tokenizer are special, and what each is for.
- ``files``: opens regular files inside of a folder; reads JSON and ranges of bytes.
- ``atomic``: writes files whole or not at all.

A shard is a WebDataset tar file, which plain ``webdataset`` opens. Its samples are blocks of rows:
``KEY.rows.npy`` (unsigned integers, [rows, row_tokens]) and ``KEY.json`` (split, source, number of
the first row, number of rows).

Ids: the manifest names the special tokens; all other ids below vocab_size are ordinary tokens.
"""
