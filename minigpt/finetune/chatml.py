"""The chat template of what is tuned here: ChatML, as Jinja that stands in the run directory.

    <|im_start|>user
    Hi<|im_end|>
    <|im_start|>assistant
    Hello.<|im_end|>

Chat, server and `transformers` read it from there. The blocks for training have `transformers` return the same mask as
`minigpt.inference.template` (`return_assistant_tokens_mask`). ChatML is of OpenAI (2023), as Qwen and others have it,
without a system message of its own.
"""

from pathlib import Path

from minigpt.errors import UserError
from minigpt.files import replace_text
from minigpt.interop.export import TEMPLATE
from minigpt.tokenizer import Tokenizer
from minigpt.tokenizer.patterns import CHAT_TOKENS

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


def check_chat_tokens(tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer without the special tokens of ChatML.

    Raises:
        UserError: it names those that are missing.
    """
    if missing := [name for name in CHAT_TOKENS if name not in tokenizer.specials]:
        kind = "a character tokenizer" if tokenizer.kind == "char" else "this tokenizer"
        raise UserError(
            f"{kind} has no special token {' and no '.join(missing)}, which the chat template (ChatML) writes; take a "
            "model with a BPE tokenizer that was made here, or one with a chat template of its own"
        )


def write_template(folder: Path, source: str = CHATML) -> None:
    """Put a chat template into a model directory, where chat, server and `transformers` look for it."""
    replace_text(folder / TEMPLATE, source)
