"""The evaluation harness of the field, lm_eval, on directories written here."""

import json
from pathlib import Path

import pytest
import torch

import minigpt
import minigpt.hf
from minigpt.evaluate import choice
from minigpt.evaluate.choice import measure_tasks
from minigpt.evaluate.tasks import Item, read_task
from minigpt.inference.decoder import Decoder
from minigpt.interop.loading import load_both
from minigpt.model.transformer import GPT
from minigpt.tokenizer import Tokenizer, bpe_tokenizer

from .conftest import SWITCHES, nonsense, sentencepiece_like
from .test_causal import make
from .test_transformer import model

NEEDED = "needs lm_eval: pip install 'lm-eval[hf]'"
HFLM = pytest.importorskip("lm_eval.models.huggingface", reason=NEEDED).HFLM
Instance = pytest.importorskip("lm_eval.api.instance", reason=NEEDED).Instance

TOKENIZER = bpe_tokenizer([(97, 32), (98, 97), (99, 97), (116, 32)])
PAIRS = [
    ("a cat ", "sat on a mat"), ("ba", "t"), ("", "a bat and a cat"), ("the dog ran under the tree and ", "then sat"),
    ("a cat ", "ran"), ("the mat that was under the dog ", "is on the cat that sat"),
]  # fmt: skip
TEXTS = ["a bat", "a cat sat on a mat.\n" * 5, "é", "the bat, the cat"]
PROMPTS = [
    "a cat ",
    "the dog ran under the tree and ",
    "b",
    "ba ca ba ca",
    "the mat is on the cat that sat on the mat",
]
CHOICES = {"text": ["a cat", "the mat", "on"], "label": ["A", "B", "C"]}
# Records of each benchmark, and the task of lm_eval that reads them. The second item of each is too long for the model.
BENCHMARKS = {
    "hellaswag": [
        {
            "activity_label": "Sitting", "ctx_a": "A cat [header] sat [title] down.", "ctx_b": b, "label": str(i % 4),
            "endings": ["on a mat.", "[step] under  it.", "and ran on", "é"], "split": "val",
        }
        for i, b in enumerate(["the cat", "that was under the dog and ran and sat", ""])
    ],
    "arc_easy": [
        {"question": q, "choices": CHOICES, "answerKey": a}
        for q, a in (("Who sat?", "A"), ("Who ran under the tree that is on the mat?", "B"), ("Where? ", "C"))
    ],
    "openbookqa": [
        {"question_stem": q, "choices": CHOICES, "answerKey": a}
        for q, a in (("The dog ran", "A"), ("A cat that sat on the mat under a tree ", "C"))
    ],
    "piqa": [
        {"goal": g, "sol1": "Sit on a mat.", "sol2": "ran", "label": i}
        for i, g in enumerate(["To sit", "To run from the dog that sat under the tree"])
    ],
    "sciq": [
        {"support": s, "question": "Who?", "correct_answer": "cat", "distractor1": "a", "distractor2": "b",
         "distractor3": "dog"}
        for s in ("", " The cat sat on the mat under a tree.")
    ],
    "winogrande": [
        {"sentence": s, "option1": "cat", "option2": "dog", "answer": a}
        for s, a in (("The _ sat.", "1"), ("Under the tree a _ ran to the mat that is on it.", "2"))
    ],
}  # fmt: skip
NAMES = ["gpt2", "llama", "qwen3", "arcee", *[name for name in SWITCHES if name.startswith("own:")]]


@pytest.fixture(scope="module", params=NAMES)
def harness(request, tmp_path_factory):
    """A model of ours, and lm_eval on its directory with batches of one and of four."""
    ours = model(**SWITCHES[request.param], vocab_size=TOKENIZER.vocab_size, block_size=32)
    folder = tmp_path_factory.mktemp("model")
    ours.save_pretrained(folder, TOKENIZER)
    theirs = {n: HFLM(pretrained=str(folder), batch_size=n, device="cpu") for n in (1, 4)}
    assert isinstance(theirs[1].model, minigpt.hf.MiniGPTForCausalLM) == request.param.startswith(
        "own:"
    )
    return ours, theirs


def asked(kind, *questions):
    return [Instance(kind, {}, question, i) for i, question in enumerate(questions)]


@torch.no_grad()
def log_likelihood(ours: GPT, context: list[int], rest: list[int]) -> tuple[float, bool]:
    """Return that of `rest` after as much of `context` as there is room for, and whether it is what is likeliest."""
    ids = (context + rest)[-ours.config.block_size - 1 :]
    rest = rest[-ours.config.block_size :]
    chances = ours(torch.tensor([ids[:-1]]))[0, -len(rest) :].log_softmax(-1)  # (rest, V)
    targets = torch.tensor(rest)
    return chances[range(len(rest)), targets].sum().item(), chances.argmax(-1).equal(targets)


def test_it_finds_the_context_length(harness):
    ours, theirs = harness
    assert theirs[1].max_length == ours.config.block_size == 32
    assert theirs[1].eot_token_id == theirs[1].prefix_token_id == TOKENIZER.eos_id


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_likelihood_of_a_continuation_is_ours(harness, batch_size):
    ours, theirs = harness
    found = theirs[batch_size].loglikelihood(asked("loglikelihood", *PAIRS), disable_tqdm=True)
    for (context, rest), (score, likeliest) in zip(PAIRS, found, strict=True):
        # lm_eval moves spaces from the end of the context to what follows.
        spaces = len(context) - len(context.rstrip())
        context, rest = context[: len(context) - spaces], context[len(context) - spaces :] + rest
        start = TOKENIZER.encode(context) or [TOKENIZER.eos_id]
        whole = TOKENIZER.encode(context + rest) if context else start + TOKENIZER.encode(rest)
        wanted, is_greedy = log_likelihood(ours, start, whole[len(start) :])
        assert score == pytest.approx(wanted, abs=1e-4)
        assert likeliest == is_greedy


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_likelihood_of_a_text_is_ours_window_by_window(harness, batch_size):
    ours, theirs = harness
    questions = asked("loglikelihood_rolling", *[(text,) for text in TEXTS])
    found = theirs[batch_size].loglikelihood_rolling(questions, disable_tqdm=True)
    for text, score in zip(TEXTS, found, strict=True):
        ids, wanted = [TOKENIZER.eos_id, *TOKENIZER.encode(text)], 0.0
        for start in range(1, len(ids), 32):
            window = ids[start : start + 32]
            # The last window is filled up with what precedes it.
            first = max(0, start + len(window) - 33) if start > 1 else 0
            wanted += log_likelihood(ours, ids[first:start], window)[0]
        assert score == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_greedy_text_is_ours(harness, batch_size):
    ours, theirs = harness
    how = {"until": ["."], "max_gen_toks": 8, "do_sample": False}
    questions = asked("generate_until", *[(prompt, how) for prompt in PROMPTS])
    found = theirs[batch_size].generate_until(questions, disable_tqdm=True)
    for prompt, text in zip(PROMPTS, found, strict=True):
        ids = TOKENIZER.encode(prompt)[-24:]
        start = len(ids)
        for _ in range(8):
            ids.append(int(ours(torch.tensor([ids]))[0, -1].argmax()))
        new = ids[start:]
        if TOKENIZER.eos_id in new:
            new = new[: new.index(TOKENIZER.eos_id)]
        shown = [i for i in new if i not in TOKENIZER.specials.values()]
        assert text == TOKENIZER.decode(shown).split(".")[0]


def test_the_likelihoods_of_choices_are_those_of_lm_eval(harness):
    ours, theirs = harness
    items = [Item(((c, a), (c, f"{a} on")), (1, 1), 0, "here") for c, a in PAIRS]
    found = choice.score(Decoder(ours), TOKENIZER, items)
    for item, scores in zip(items, found, strict=True):
        wanted = theirs[1].loglikelihood(asked("loglikelihood", *item.pairs), disable_tqdm=True)
        assert scores == pytest.approx([value for value, _ in wanted], abs=1e-4)


@pytest.mark.parametrize("name", ["gpt_neox", "mistral", "mamba"])
@pytest.mark.parametrize("kind", ["ours", "sentencepiece"])
def test_other_models_and_tokenizers_score_as_in_lm_eval(name, kind, tmp_path):
    of_others = Tokenizer(sentencepiece_like(nonsense(400)), eos="</s>")
    make(name, tmp_path, TOKENIZER if kind == "ours" else of_others)
    model, tokenizer = load_both(tmp_path)
    contexts = ["a cat ", "the dog ran under the tree and", "the mat", ""]
    items = [Item(((c, " sat"), (c, " ran on a")), (4, 9), 0, "here") for c in contexts]
    theirs = HFLM(pretrained=str(tmp_path), batch_size=1, device="cpu")
    for item, scores in zip(items, choice.score(model, tokenizer, items), strict=True):
        wanted = theirs.loglikelihood(asked("loglikelihood", *item.pairs), disable_tqdm=True)
        assert scores == pytest.approx([value for value, _ in wanted], abs=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The directory of a model, with room for most of a question."""
    made = model(**SWITCHES["llama"], vocab_size=TOKENIZER.vocab_size, block_size=40)
    path = tmp_path_factory.mktemp("model")
    made.save_pretrained(path, TOKENIZER)
    return path


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_accuracies_and_errors_are_those_of_lm_eval(name, folder, tmp_path):
    lm_eval = pytest.importorskip("lm_eval")
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(map(json.dumps, BENCHMARKS[name])))
    # Its own task, with our records for those of the Hub.
    place = {"arc_easy": "arc/arc_easy", "winogrande": "winogrande/default"}
    theirs = Path(lm_eval.__file__).parent / f"tasks/{place.get(name, f'{name}/{name}')}.yaml"
    splits = {split: str(path) for split in ("train", "validation", "test")}
    task = {
        "include": str(theirs), "task": name, "dataset_path": "json", "dataset_name": None,
        "dataset_kwargs": {"data_files": splits},
    }  # fmt: skip
    (tmp_path / "task.yaml").write_text(json.dumps(task))
    harness = HFLM(pretrained=str(folder), batch_size=2, device="cpu")
    told = lm_eval.simple_evaluate(harness, tasks=[str(tmp_path / "task.yaml")], bootstrap_iters=2)
    items = read_task(str(path)).items
    found = measure_tasks(folder, [read_task(str(path))])[str(path)]
    for key in ("acc", "acc_norm"):
        if f"{key},none" in told["results"][name]:
            assert found[key] == told["results"][name][f"{key},none"]
            assert found[f"{key}_stderr"] == pytest.approx(
                told["results"][name][f"{key}_stderr,none"]
            )
    ours, tokenizer = minigpt.load(folder)
    scores = choice.score(Decoder(ours), tokenizer, items)
    for sample in told["samples"][name]:
        wanted = [value for value, _ in sample["filtered_resps"]]
        assert scores[sample["doc_id"]] == pytest.approx(
            [float(value) for value in wanted], abs=1e-4
        )
