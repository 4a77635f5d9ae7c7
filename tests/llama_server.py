"""llama.cpp as a process of its own: the model and the context in, the address on standard output, until input ends.

In another's process its end has been seen to wait for a thread of its own that waits in turn, for ever.
"""

import os
import sys

import xllamacpp

options = xllamacpp.CommonParams()
options.model.path, options.n_ctx = sys.argv[1], int(sys.argv[2])
options.cache_type_k = options.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
options.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
options.n_parallel, options.n_gpu_layers = 1, 0
options.warmup, options.fit_params, options.verbosity = False, False, -1
options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(options)
print(server.listening_address, flush=True)
sys.stdin.read()
os._exit(0)
