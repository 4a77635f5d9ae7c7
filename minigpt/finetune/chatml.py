"""The chat template of what is tuned here: ChatML, as Jinja that stands in the run directory.

    <|im_start|>user
    Hi<|im_end|>
    <|im_start|>assistant
    Hello.<|im_end|>

Chat, server and `transformers` read it from there. The blocks for training have `transformers` return the same mask as
`minigpt.inference.template` (`return_assistant_tokens_mask`). ChatML is of OpenAI (2023), as Qwen and others have it,
without a system message of its own.
"""

import tokenizers
from tokenizers import AddedToken

from minigpt.tokenizer import Tokenizer
from minigpt.tokenizer.patterns import CHAT_TOKENS, END_OF_TEXT

CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}
            {{- message['content'] + '<|im_end|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- message['content'] + '<|im_end|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def with_chat_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer with the special tokens of ChatML; those that it lacks follow its last id."""
    missing = [name for name in CHAT_TOKENS if name not in tokenizer.specials]
    if not missing:
        return tokenizer
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.add_special_tokens([AddedToken(name, special=True) for name in missing])
    end = END_OF_TEXT if tokenizer.eos_id is None else tokenizer.pieces[tokenizer.eos_id].decode()
    return Tokenizer(backend, end)
