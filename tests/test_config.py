import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt import config
from minigpt.config import ModelConfig, OptimConfig, RunConfig, SampleConfig, TrainConfig
from minigpt.errors import UserError


def test_every_setting_survives_toml():
    changed = config.build(
        [("here", {"model": {"n_kv_head": 2, "bias": True}, "sample": {"prompt": 'a"\\\n\x7f🙂'}})]
    )
    for settings in (RunConfig(), changed):
        assert config.from_dict(tomllib.loads(config.to_toml(settings)), "toml") == settings


@given(prompt=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_prompt_survives_toml(prompt):
    settings = RunConfig(sample=SampleConfig(prompt=prompt))
    assert config.from_dict(tomllib.loads(config.to_toml(settings)), "toml") == settings


def test_later_layers_win():
    settings = config.build(
        [("a", {"model": {"n_layer": 1, "n_head": 2}}), ("b", {"model": {"n_layer": "3"}})]
    )
    assert (settings.model.n_layer, settings.model.n_head, settings.model.n_embd) == (3, 2, 128)


def test_a_run_length_takes_back_the_others_of_earlier_layers():
    settings = config.build([("a", {"train": {"steps": 10}}), ("b", {"train": {"minutes": 2}})])
    assert (settings.train.steps, settings.train.minutes) == (0, 2.0)
    with pytest.raises(UserError, match=r"gives train\.steps and train\.minutes"):
        config.build([("a", {"train": {"steps": 10, "minutes": 2}})])


def test_all_problems_are_said_at_once_with_the_nearest_names():
    wrong = {
        "model": {"n_layr": 3, "n_embd": 130, "norm": "rmsnrm", "n_head": 4},
        "trian": {},
        "optim": {"lr": "high"},
        "train": {"batch_size": 0},
        "sample": {"greedy": 1},
    }
    with pytest.raises(UserError) as raised:
        config.build([("here", wrong)])
    for part in (
        "7 settings",
        "model.n_layr (did you mean 'n_layer'?)",
        "model.norm is 'rmsnrm'; wanted one of rmsnorm, layernorm (did you mean 'rmsnorm'?)",
        "[trian] (did you mean 'train'?)",
        "optim.lr is 'high'; wanted a number",
        "train.batch_size is 0; wanted at least 1",
        "sample.greedy is 1; wanted true or false",
        "model.n_embd = 130 is not divisible by model.n_head = 4; take n_embd = 132",
    ):
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("value", "wanted", "result"),
    [("4", int, 4), (4, float, 4.0), ("1e-3", float, 1e-3), ("true", bool, True), ("x", str, "x")],
)  # fmt: skip
def test_text_becomes_the_type_of_the_setting(value, wanted, result):
    assert config.convert(value, wanted) == result


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (1.5, int),
        ("1.5", int),
        (True, int),
        (True, float),
        ("yes", bool),
        (1, str),
        ([1], float),
        ("x", float),
    ],
)
def test_what_is_of_another_type_is_refused(value, wanted):
    with pytest.raises(ValueError, match="wanted"):
        config.convert(value, wanted)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.0])
def test_numbers_out_of_range_are_refused(value):
    with pytest.raises(UserError, match=r"model\.dropout is .*wanted (at least 0|a finite number)"):
        config.check(RunConfig(model=ModelConfig(dropout=value)))


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        (ModelConfig(n_head=4, n_kv_head=3), "n_head = 4 is not divisible by model.n_kv_head = 3"),
        (ModelConfig(n_embd=12, n_head=4), "a head has 3 of them"),
        (OptimConfig(lr=1e-3, min_lr=1e-2), "min_lr = 0.01 lies above"),
        (
            TrainConfig(batch_size=10, micro_batch_size=4),
            "not a multiple of train.micro_batch_size = 4",
        ),
        (TrainConfig(steps=1, epochs=1.0), "train.steps and train.epochs both say"),
    ],
)
def test_contradictions_are_named(section, sentence):
    name = type(section).__name__.removesuffix("Config").lower()
    with pytest.raises(UserError, match=sentence.replace(".", r"\.")):
        config.check(RunConfig(**{name: section}))


def test_derived_fields_are_written_out():
    resolved = ModelConfig(vocab_size=65, n_embd=128, n_head=4, n_kv_head=2).resolve()
    assert (resolved.n_kv_head, resolved.head_dim, resolved.mlp_hidden) == (2, 32, 384)
    assert ModelConfig(vocab_size=65, mlp="gelu").resolve().mlp_hidden == 512
    assert resolved.resolve() == resolved
    with pytest.raises(UserError, match="vocab_size is not set"):
        ModelConfig().resolve()


def test_an_unknown_preset_gets_the_nearest_name():
    with pytest.raises(
        UserError, match=r"no preset 'shakespeare-cp' \(did you mean 'shakespeare-cpu'\?\)"
    ):
        config.preset_layer("shakespeare-cp")


def test_settings_files_are_refused_when_they_are_none(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        config.file_layer(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[model\n")
    with pytest.raises(UserError, match="cannot be read as TOML"):
        config.file_layer(tmp_path / "bad.toml")


def test_changes_are_listed_by_name():
    after = RunConfig(model=ModelConfig(n_layer=5))
    assert config.changes(RunConfig(), after) == {"model.n_layer": (4, 5)}


def test_every_setting_is_explained():
    for section in config.SECTIONS.values():
        for item in section.__dataclass_fields__.values():
            assert len(item.metadata["doc"]) > 5, item.name


def test_text_in_the_place_of_a_number_is_refused_in_python_too():
    for field, value in (("n_layer", "3"), ("norm_eps", "0.1"), ("bias", "true")):
        with pytest.raises(UserError, match=f"model.{field} is the text {value!r}; wanted"):
            ModelConfig(**{"vocab_size": 9, field: value}).resolve()
    with pytest.raises(UserError, match="rope_theta is a huge number"):
        ModelConfig(vocab_size=9, rope_theta=10**400).resolve()
    with pytest.raises(UserError, match="n_layer is 1000"):
        ModelConfig(vocab_size=9, n_layer=10**400).resolve()


def test_a_switch_with_a_third_state_takes_true_and_false_everywhere():
    for value, kept in ((True, "on"), (False, "off")):
        assert TrainConfig(compile=value).compile == kept
        assert config.build([("it", {"train": {"compile": value}})]).train.compile == kept
        words = {"train": {"compile": str(value).lower()}}
        assert config.build([("it", words)]).train.compile == kept
    with pytest.raises(UserError, match=r"train\.compile is 1; wanted one of auto, on, off"):
        config.build([("a file", {"train": {"compile": 1}})])
