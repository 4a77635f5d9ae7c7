import doctest
import json
import math
import re

import pytest

from minigpt import plan as planning
from minigpt.config import DataConfig, ModelConfig, RunConfig, TrainConfig, build, preset_layer
from minigpt.data.prepare import prepare_folder
from minigpt.errors import UserError
from minigpt.model.transformer import GPT
from minigpt.optim.groups import make_optimizer
from minigpt.plan import plan
from minigpt.plan_text import as_text
from minigpt.pretrain import prepare_run

from .test_imports import run_python
from .test_pretrain import changed


def preset(name: str, **sections) -> RunConfig:
    return build([preset_layer(name), ("the test", sections)])


def warnings_of(train: TrainConfig | None = None, **shape) -> list[str]:
    model = ModelConfig(**({"vocab_size": 64, "n_embd": 128, "n_head": 2} | shape))
    return plan(RunConfig(model=model, train=train or TrainConfig(steps=1)))["warnings"]


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(planning) == (0, 3)


def test_gpt2_is_as_published():
    facts = plan(preset("gpt2-124m", model={"vocab_size": 50257}))
    assert facts["parameters"] == 124_439_808
    assert facts["outer_parameters"] == {
        "token_table": 50257 * 768,
        "position_table": 1024 * 768,
        "head": 0,
        "final_norm": 1536,
    }
    assert facts["block_parameters"] == {
        "attention": 4 * (768 * 768 + 768),
        "mlp": 2 * 768 * 3072 + 3072 + 768,
        "norms": 2 * 1536,
    }
    assert facts["architecture"] == "GPT2LMHeadModel"
    assert facts["cache_bytes_per_token_fp32"] == 73_728
    assert facts["cache_bytes_bf16"] == 73_728 // 2 * 1024
    assert facts["weights_bytes_bf16"] == 2 * 124_439_808
    # 12 blocks of 12 · 768² and the head, 6 for each; 12 · 12 · 768 · 1024 for attention.
    assert facts["training_flops_per_token"] == 6 * (84_934_656 + 38_597_376) + 113_246_208
    assert facts["tokens_per_step"] == 524_288
    assert facts["tokens"] == 19_073 * 524_288
    assert facts["training_flops"] == facts["training_flops_per_token"] * facts["tokens"]
    assert facts["tokens_per_parameter"] == pytest.approx(80.36, abs=0.01)
    assert facts["first_loss_nats_per_token"] == pytest.approx(10.825, abs=0.001)


def test_rows_are_padded_as_in_training():
    facts = plan(preset("gpt2-124m"))
    assert (facts["vocabulary_ids"], facts["vocabulary_rows"]) == (50_257, 50_304)
    assert facts["parameters"] == 124_439_808 + 47 * 768


@pytest.mark.parametrize(("name", "tables"), [("adamw", 0), ("muon", 1)])
def test_every_parameter_has_one_group_and_it_is_the_one_that_the_optimiser_has(
    small_config, name, tables
):
    config = changed(
        small_config,
        model={"vocab_size": 40, "bias": True, "qk_norm": True},
        optim={"name": name, "muon_lr": 0.03},
    )
    facts = plan(config)
    assert sum(group["parameters"] for group in facts["groups"]) == facts["parameters"]
    made = make_optimizer(GPT(config.model), config.optim).param_groups
    assert [
        tuple(group[key] for key in ("optimizer", "learning_rate", "weight_decay", "tensors", "parameters"))
        for group in facts["groups"]
    ] == [
        (
            group["optimizer"], group["lr"], group["weight_decay"], len(group["params"]),
            sum(p.numel() for p in group["params"]),
        )
        for group in made
    ]  # fmt: skip
    kinds = [group["tensors_by_kind"] for group in facts["groups"]]
    assert kinds[tables]["embedding.weight"] == 1
    assert kinds[0]["blocks.*.attention.query.weight"] == config.model.n_layer


def test_the_plan_of_mqa_512_names_both_optimisers_with_their_rates():
    text = as_text(plan(preset("mqa-512", model={"vocab_size": 20032})))
    assert re.search(r"Muon, decay 0\.1 +22,020,096   in 56 tensors, rate up to 0\.\d+\n", text)
    assert re.search(r"AdamW, decay 0\.1 +10,256,384   in 1 tensors, rate up to 0\.0006\n", text)


@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
def test_a_plan_is_what_the_run_becomes(small_config, tmp_path, tokenizer):
    config = changed(small_config, data={"tokenizer": tokenizer, "vocab_size": 280})
    job = prepare_run(config, tmp_path / "run")
    facts = plan(config)
    assert facts["vocabulary_rows"] == job.config.model.vocab_size
    assert facts["parameters"] == sum(p.numel() for p in job.model.parameters())
    assert facts["steps"] == job.steps
    assert facts["tokens_per_step"] == sum(batch.ids.numel() for batch in job.batches(0))


def test_epochs_are_known_where_the_tokens_are(small_text, tmp_path):
    tokens = prepare_folder(DataConfig(source=str(small_text), vocab_size=300), tmp_path / "t")
    windows = len(tokens.train) // 128 - 1
    train = TrainConfig(epochs=2.5, batch_size=4)
    facts = plan(RunConfig(data=DataConfig(source=str(tmp_path / "t")), train=train))
    assert facts["vocabulary_ids"] == tokens.tokenizer.vocab_size
    assert facts["steps"] == math.ceil(2.5 * windows / 4)
    assert facts["held_out_tokens"] == len(tokens.val)
    of_the_text = plan(RunConfig(data=DataConfig(source=str(small_text)), train=train))
    assert (of_the_text["steps"], of_the_text["tokens"]) == (None, None)
    assert "minigpt prepare" in as_text(of_the_text)


def test_minutes_become_steps_only_when_the_run_begins():
    facts = plan(preset("demo"))
    assert (facts["steps"], facts["training_flops"], facts["minutes"]) == (None, None, 1.0)
    assert "not known yet   1 min\n" in as_text(facts)


def test_epochs_of_a_stream_are_refused():
    config = preset("gpt2-124m", train={"epochs": 2})
    with pytest.raises(UserError, match=r"train\.epochs cannot be told of a stream"):
        plan(config)


def test_processes_share_the_step():
    one, four = (plan(preset("gpt2-124m"), processes=count) for count in (1, 4))
    differing = {key for key in one if one[key] != four[key]}
    assert differing == {"processes", "sequences_per_process_and_step"}
    assert four["sequences_per_process_and_step"] == 128
    assert "each of 4 processes" in as_text(four)
    many = plan(preset("gpt2-124m"), processes=64)
    assert many["sequences_per_micro_batch"] == 8


@pytest.mark.parametrize("processes", [0, -1, 3, 1024])
def test_processes_that_do_not_divide_the_batch_are_refused(processes):
    wanted = (
        "wanted one at least" if processes < 1 else f"cannot be shared by {processes} processes"
    )
    with pytest.raises(UserError, match=wanted):
        plan(preset("gpt2-124m"), processes=processes)


def test_too_few_rows_for_the_tokenizer_are_refused():
    with pytest.raises(UserError, match="is 50,000 but the tokenizer has 50,257 ids"):
        plan(preset("gpt2-124m", model={"vocab_size": 50_000}))


def test_given_rows_make_the_text_needless():
    facts = plan(preset("shakespeare-cpu", model={"vocab_size": 65}))
    assert (facts["vocabulary_ids"], facts["vocabulary_rows"]) == (None, 65)
    assert facts["parameters"] == 804_224 - 128


def test_a_round_shape_has_no_warnings():
    assert warnings_of() == []
    assert plan(preset("gpt2-124m"))["warnings"] == []


@pytest.mark.parametrize(
    ("shape", "sentences"),
    [
        ({"n_embd": 96}, ["model.n_embd is 96, no multiple of 64", "the nearest: 64 and 128"]),
        ({"mlp_hidden": 500}, ["model.mlp_hidden is 500", "the nearest: 448 and 512"]),
        ({"head_dim": 48}, ["model.n_head x model.head_dim is 96"]),
        ({"vocab_size": 50257}, ["model.vocab_size is 50,257", "the nearest: 50,240 and 50,304"]),
        ({"n_head": 32, "n_embd": 384}, ["a head has 12 channels", "the nearest: 8 and 16"]),
    ],
)
def test_a_shape_that_costs_speed_is_named_with_the_nearest_good_one(shape, sentences):
    (warning,) = warnings_of(**shape)
    assert all(sentence in warning for sentence in sentences)


def test_few_rows_need_not_be_a_multiple():
    assert warnings_of(vocab_size=4095) == []


def test_a_run_too_short_for_its_compilation_is_named():
    def compiling(**train) -> list[str]:
        return warnings_of(TrainConfig(compile="on", device="cpu", **train))

    (warning,) = compiling(steps=100)
    assert "and this run has 100" in warning
    assert compiling(steps=1_000_000) == []
    (warning,) = compiling(minutes=1)
    assert "and this run has 60 s" in warning
    assert compiling(minutes=60) == []


def test_a_small_step_takes_more_steps_to_pay_for_its_compilation():
    def pays(steps: int, batch_size: int) -> bool:
        train = TrainConfig(compile="on", device="cpu", steps=steps, batch_size=batch_size)
        return warnings_of(train) == []

    assert [pays(2000, 1), pays(2000, 64)] == [False, True]


def test_facts_survive_json():
    facts = plan(preset("gpt2-124m"))
    assert json.loads(json.dumps(facts)) == facts


def test_no_compiler_and_no_library_of_data_sets_is_imported(small_text):
    code = (
        "import sys; from minigpt.config import DataConfig, RunConfig; from minigpt.plan import plan;"
        f"plan(RunConfig(data=DataConfig(source={str(small_text)!r}, tokenizer='char')));"
        "assert not {'torch._dynamo', 'datasets', 'transformers'} & set(sys.modules)"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


def test_the_settings_of_tuning_are_refused():
    with pytest.raises(UserError, match="these are settings of tuning, which plan does not reckon"):
        plan(RunConfig(train=TrainConfig(base="runs/demo")))
