"""Prefill and decode of llama.cpp on a GGUF file, to set beside ``lmi bench``.

Needs ``pip install xllamacpp`` (in an environment of its own; lmi does not depend on it).

    python docs/compare_llama_cpp.py MODEL.gguf TEXT.txt 8000 48
"""

import json
import os
import sys
from pathlib import Path

import xllamacpp


def main(model: str, text: str, tokens: int, generated: int) -> None:
    """Read about ``tokens`` tokens of a text, then generate; print tokens a second."""
    threads = len(os.sched_getaffinity(0))
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = tokens + generated + 512
    params.n_parallel = 1
    params.warmup = True
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    prompt = Path(text).read_text(encoding="utf-8")[: tokens * 4]
    request = {
        "prompt": prompt,
        "n_predict": generated,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": False,
    }
    timings = server.handle_completions(request)["timings"]
    sys.stdout.write(json.dumps(timings, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
