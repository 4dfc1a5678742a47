"""The contract between data preparation and training: rows (packed sequences) on disk.

`pipeline` imports nothing else of `data_prep`, and nothing here imports other packages of it.

- ``manifest``: the schema of ``manifest.json``, which names all files of a data set.
- ``shard_writer``, ``row_reader``: write shards; read any row by its number, without scanning.
- ``verify``: checks the files against the manifest.
- ``tokenizer``: loads ``tokenizer.json``; the special tokens and their ids.
- ``files``: opens regular files inside of a folder; reads JSON and ranges of bytes.
- ``atomic``: writes files whole or not at all.

A shard is a WebDataset tar file, which plain ``webdataset`` opens. Its samples are blocks of rows:
``KEY.rows.npy`` (unsigned integers, [rows, row_tokens]) and ``KEY.json`` (split, source, number of
the first row, number of rows).

Ids: the special tokens are RoBERTa's, ``<s>`` 0, ``<pad>`` 1, ``</s>`` 2, ``<unk>`` 3 and, last,
``<mask>`` vocab_size - 1. Ordinary tokens are exactly the ids 4 .. vocab_size - 2.
"""
