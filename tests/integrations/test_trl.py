"""The callback and the filter beside TRL's own trainer, on a tiny model."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

import ripcurrent as rc
from ripcurrent.errors import RipcurrentError
from ripcurrent.integrations.trl import RipcurrentCallback, filter
from tests.models.tiny import save_tiny
from tests.scan_fixtures import good_rows

ROWS = [{"prompt": row["prompt"], "completion": row["response"]} for row in good_rows(10)]


@pytest.fixture
def make(tmp_path):
    """Makes a trainer of a tiny model: steps of 4, 4 and 2 rows in each epoch."""
    # untied: where the token that pads is an input, it has no gradient, and a tied head moves it all the same
    folder = save_tiny(tmp_path / "model", "qwen3")

    def trainer(rows=ROWS, dropout=0.0, **options):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attention_dropout=dropout)
        batch = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 2}
        quiet = {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
        arguments = SFTConfig(str(tmp_path / "out"), **{**batch, **quiet, "logging_steps": 1, **options})
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return SFTTrainer(model, arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)

    return trainer


@pytest.fixture
def run(make, exact, tmp_path):
    options = {name: value for name, value in exact.items() if name not in ("model", "dtype", "device")}
    return rc.scan(make(), tmp_path / "run", **options)


def points(trainer):
    return [point for point in trainer.state.log_history if "ripcurrent/observed" in point]


@pytest.mark.parametrize("options", [{}, {"train_sampling_strategy": "group_by_length", "dataloader_num_workers": 1}])
def test_a_training_is_the_same_to_the_bit(make, run, options):
    plain = make(dropout=0.3, **options)
    plain.train()
    watched = make(dropout=0.3, **options)
    watched.add_callback(RipcurrentCallback(watched, run, every=2))
    watched.train()
    for one, other in zip(plain.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(one, other), "dropout shows where a generator was used"
    trained = [one for one in watched.state.log_history if "loss" in one]
    assert all("mean_token_accuracy" in one for one in trained), "TRL's own means stay where they were"
    assert [point["step"] for point in points(watched)] == [0, 2, 4, 6]


def test_under_plain_sgd_the_prediction_happens_and_a_breach_names_its_rows_and_stops(make, run, caplog):
    safe = np.mean(run.manifest.anchors.measurements.norms[4:]) * run.floats("gradient_safe")
    falls = -run.floats("predicted_harmful_loss_change") - safe * run.floats("gradient_norm")
    riskiest = falls.argsort()[::-1][:6].tolist()
    rows, sgd = [ROWS[number] for number in riskiest], {"optim": "sgd", "learning_rate": 1e-4, "max_grad_norm": 0.0}
    trainer = make(rows, **sgd)
    trainer.add_callback(RipcurrentCallback(trainer, run, every=1))
    trainer.train()
    for point in points(trainer)[1:]:
        assert point["ripcurrent/observed"] == pytest.approx(point["ripcurrent/predicted"], rel=0.02)
    trainer = make(rows, **sgd)
    callback = RipcurrentCallback(trainer, run, every=2, warn_above=1e9, stop_above=1e-9)
    trainer.add_callback(callback)
    trainer.train()
    breach = callback.breaches[0]
    assert (breach.step, trainer.state.global_step, {row for _, row, _ in breach.rows}) == (2, 2, set(riskiest))
    assert "Step 2: the refusal log-odds fell by" in caplog.text
    assert f"is by: row {breach.rows[0][1]} (step {breach.rows[0][0]}, " in caplog.text


def test_the_riskiest_rows_are_left_out(make, run):
    trainer, first = make(), run.ranked()[:2].tolist()
    before = list(trainer.train_dataset)
    assert filter(trainer, run, drop="25%") == first
    assert list(trainer.train_dataset) == [before[place] for place in range(10) if place not in first]
    left = [int(row) for row in run.ranked("gradient_safe") if row not in first]
    assert filter(trainer, run.folder, drop=3, by="gradient_safe") == left[:3]
    trainer.add_callback(RipcurrentCallback(trainer, run))
    trainer.train()
    assert points(trainer)[-1]["step"] == trainer.state.global_step == 4
    for drop in ("0%", 5, "some", "5"):
        with pytest.raises(RipcurrentError, match="cannot be left out"):
            filter(trainer, run, drop=drop)
    trainer.train_dataset = trainer.train_dataset.to_iterable_dataset()
    with pytest.raises(RipcurrentError, match="no processed dataset"):
        filter(trainer, run, drop=1)


@pytest.mark.parametrize(
    ("options", "how", "said"),
    [
        ({"packing": True, "max_length": 64}, {}, r"joins rows \(packing\)"),
        ({"rows": [*ROWS, {"prompt": "Other", "completion": "row."}]}, {}, "Row 10 of the trainer is not in the scan"),
        ({"max_length": 50}, {}, "Row . of the trainer is not in the scan"),
        ({}, {"every": 0}, "every=0"),
    ],
)
def test_what_cannot_be_compared_is_refused(make, run, options, how, said):
    with pytest.raises(RipcurrentError, match=said):
        RipcurrentCallback(make(**options), run, **how)


def test_axolotls_plugin_drops_rows_and_adds_the_callback(make, run):
    base = pytest.importorskip("axolotl.integrations.base")
    from axolotl.utils.dict import DictDefault

    manager, name = base.PluginManager.get_instance(), "ripcurrent.integrations.axolotl.RipcurrentPlugin"
    manager.register(name)
    assert manager.get_input_args() == ["ripcurrent.integrations.axolotl.RipcurrentArgs"]
    trainer = make()
    manager.post_trainer_create(DictDefault(ripcurrent_run=str(run.folder), ripcurrent_drop="20%"), trainer)
    trainer.train()
    assert len(trainer.train_dataset) == 8
    assert [point["step"] for point in points(trainer)] == [0, 4]
