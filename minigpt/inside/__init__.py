"""A model, its tokenizer and a text in; what goes on inside for that text out: as data, and as one HTML file.

`views.look` computes, `look.js` draws: `renderLook(element, data)`, for the file and for any page that has it and
`look.css`. `Look.data` is plain numbers, of six digits; `Look.packed`, which `renderLook` takes, is the same in a tenth
of the bytes: maps and vectors are text in it (`compact.py`). Of L layers, H heads and T tokens:

model       {"layers", "heads", "kv_heads", "channels", "head_dim", "context", "parameters"}
note        a sentence on what is left out of the text; null
tokens      T of {"id", "piece", "loss", "probability", "rank"}: how the model foretold it from those before it (nats;
            rank 1 is the likeliest); the last three null for the first
loss        {"nats_per_token", "bits_per_byte", "tokens"} of those that were foretold; null where none was
pieces      {id: piece} of every token that the lens names
attention   "weights" [L][H][T][T], "mean" [L][T][T] over heads; "entropy" [L][H] in bits, "most_entropy": of uniform
            attention; "here" and "probe" {pattern: [L][H]}, shares of attention on this text and on random tokens twice
            over (null: no room for them), "uniform" {pattern: number}, those of uniform attention on this text;
            patterns that have no place in it are left out; "names" [L][H] lists of patterns; "patterns" {pattern: its
            name}
lens        L + 1 of {"top" [T][5] ids, "probabilities" [T][5], "loss" [T - 1] in nats and "rank" [T - 1] of the token
            that follows}: before the first block and after each
norms       "stream" [L + 1][T], "attention" [L][T], "mlp" [L][T]: lengths of the stream and of what is added to it
vectors     "query", "key", "value" [L][H][T][2] in planes, "explained" and "value_explained" [L][H] (`vectors.py`)
"""
