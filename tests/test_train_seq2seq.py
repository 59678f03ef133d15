"""Training a model with a decoder: its tokens, its labels, its loss, and a whole run."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from click.testing import CliRunner  # noqa: E402
from transformers import WhisperConfig, WhisperForConditionalGeneration  # noqa: E402

import tynda  # noqa: E402
from helpers import read_raw, write_raw, write_tones  # noqa: E402
from tynda.cli import main  # noqa: E402
from tynda.errors import TyndaError  # noqa: E402
from tynda.sound.frontend import LogMel  # noqa: E402
from tynda.train import recipe as recipes  # noqa: E402
from tynda.train.data import Said, collate  # noqa: E402
from tynda.train.seq2seq import Seq2Seq  # noqa: E402
from tynda.train.start import initial_weights  # noqa: E402
from tynda.train.tokens import learn_tokens  # noqa: E402

TEXTS = ["do mi so", "so do", "mi mi do"]
RECIPE = """
family = "whisper"
tokens = 270
[model]
channels = 32
layers = 1
heads = 2
hidden = 64
decoder_layers = 1
decoder_heads = 2
decoder_hidden = 64
frames = 75
context = 24
[frontend]
kind = "log_mel"
bins = 16
normalize = "whisper"
[data]
dev = ["m.jsonl"]
batch_seconds = 6.0
max_seconds = 1.5
[[data.train]]
manifest = "m.jsonl"
weight = 8.0
[optimizer]
epochs = 25
lr = 4e-3
warmup_steps = 10
average = 0.9
precision = "f32"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones")
    write_tones(folder, TEXTS, pause=0.05)
    (folder / "tones.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def recipe(folder):
    return recipes.load(str(folder / "tones.toml"))


@pytest.fixture(scope="module")
def objective(recipe):
    return Seq2Seq(recipe, LogMel(bins=16, normalize="whisper"), TEXTS)


class Always:
    """A generator whose every draw is the same."""

    def __init__(self, value):
        self.value = value

    def random(self):
        return self.value


PLAIN, TIMED = Always(0.0), Always(1.0)


def test_the_same_texts_give_the_same_tokens_in_whispers_order():
    texts = ["the cat", "the dog", "a cat"] * 3
    one, two = (learn_tokens(texts, 270) for _ in range(2))
    np.testing.assert_equal(one.to_dict(), two.to_dict())
    assert one.decode(one.encode(" the cat's dog ж")) == " the cat's dog ж"
    assert len(one.encode(" cat")) < 4
    order = [one.eot, one.sot, one.languages["en"], one.translate, one.transcribe]
    order += [one.sot_lm, one.sot_prev, one.no_speech, one.no_timestamps, one.timestamp_begin]
    assert order == list(range(one.eot, one.eot + 10))
    assert one.eot <= 270


def test_labels_by_hand(objective):
    t = objective.tokenizer
    said = [Said("do mi", 0.0, 0.5), Said("so", 0.61, 1.2)]
    do_mi, so = t.encode(" do mi"), t.encode(" so")
    at = [t.timestamp_begin + i for i in (0, 25, 30, 60)]  # 0.61 s is 30.5 steps of 0.02 s
    assert objective.labels(said, PLAIN) == [t.sot, t.no_timestamps, *do_mi, *so, t.eot]
    assert objective.labels(said, TIMED) == [
        *(t.sot, at[0], *do_mi, at[1]),
        *(at[2], *so, at[3], t.eot),
    ]
    assert objective.labels([Said("", 0.0, 1.0)], TIMED) == [t.sot, t.no_speech, t.eot]


def test_what_the_window_cuts_off_has_its_beginning_only(objective):
    t = objective.tokenizer
    said = [Said("do", 0.0, 0.5), Said("so", 0.6, 1.6), Said("mi", 1.6, 1.9)]
    for rng in (PLAIN, TIMED):  # the text of a part is unknown
        assert objective.labels(said, rng) == [
            *(t.sot, t.timestamp_begin, *t.encode(" do"), t.timestamp_begin + 25),
            *(t.timestamp_begin + 30, t.eot),
        ]


def test_features_fill_the_window_or_the_longest_fills_it(objective):
    long, short, shorter = (np.ones((n, 2), np.float32) for n in (200, 3, 2))

    def filled(batch, **window):
        return [(len(f), int(f.sum()) // 2) for f in objective.fit(batch, **window)]

    assert filled([long, short]) == [(150, 150), (150, 3)]
    assert filled([long, short], window="fit") == [(150, 150), (150, 3)]
    assert filled([short, shorter], window="fit") == [(3, 3), (3, 2)]


@pytest.mark.parametrize("rng", [PLAIN, TIMED])
def test_what_the_context_has_no_room_for_has_its_beginning_only(objective, rng):
    t = objective.tokenizer
    assert objective.labels([Said("do " * 40, 0.0, 1.0)], rng) == [t.sot, t.timestamp_begin, t.eot]
    text = "mi so do do"
    count = len(t.encode(f" {text}"))
    said = [Said(text, 0.1 * i, 0.1 * i + 0.1) for i in range(8)]
    labels = objective.labels(said, rng)
    whole = sum(token == t.timestamp_begin + 5 * i for i in range(9) for token in labels) // 2
    assert whole == (24 - 3) // (count + 2) > 0
    assert len(labels) == 1 + whole * (count + 2) + 2 <= 24
    assert labels[-2:] == [t.timestamp_begin + 5 * whole, t.eot]
    # The last utterance needs no space for the start of another one.
    room = objective.config.context - 4
    short = next(" ".join(["do"] * n) for n in range(30, 0, -1) if len(t.encode(" do" * n)) <= room)
    assert t.encode(f" {short}")[0] in objective.labels([Said(short, 0.0, 1.0)], rng)


@pytest.mark.filterwarnings("ignore")
def test_the_plain_loss_is_that_of_transformers(objective):
    c = objective.config
    theirs = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=c.vocab,
            num_mel_bins=c.bins,
            d_model=c.channels,
            encoder_layers=c.layers,
            encoder_attention_heads=c.heads,
            encoder_ffn_dim=c.hidden,
            decoder_layers=c.decoder_layers,
            decoder_attention_heads=c.decoder_heads,
            decoder_ffn_dim=c.decoder_hidden,
            max_source_positions=c.frames,
            max_target_positions=c.context,
            dropout=0.0,
            pad_token_id=0,
            eos_token_id=0,
            decoder_start_token_id=0,
            suppress_tokens=None,
            begin_suppress_tokens=None,
        )
    ).eval()
    weights = initial_weights(objective.specs(), 1)
    theirs.load_state_dict(
        {**weights, "proj_out.weight": weights["model.decoder.embed_tokens.weight"]}
    )
    rng = np.random.default_rng(0)
    labels = [objective.labels([Said(text, 0.0, 1.0)], PLAIN) for text in TEXTS]
    features = [rng.standard_normal((150, 16)).astype(np.float32) for _ in TEXTS]
    batch = collate(features, labels, [[] for _ in TEXTS])
    rows = torch.full((3, max(map(len, labels))), -100)
    for row, label in zip(rows, labels, strict=True):
        row[: len(label)] = torch.tensor(label)
    with torch.no_grad():
        expected = theirs(
            input_features=batch.features.transpose(1, 2),
            decoder_input_ids=rows[:, :-1].clamp(min=0),
            labels=rows[:, 1:],
        )
        loss, plain = objective.loss(weights, batch, 1)
        total, count, _ = objective.evaluate(weights, batch)
    assert plain.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    assert total / count == pytest.approx(expected.loss.item(), rel=1e-5)
    # Label smoothing, from its definition: 0.1 of the target is spread over all tokens.
    smooth = torch.nn.functional.cross_entropy(
        expected.logits.flatten(0, 1), rows[:, 1:].flatten(), label_smoothing=0.1
    )
    assert loss.item() == pytest.approx(smooth.item(), rel=1e-5)


@pytest.mark.usefixtures("all_is_speech")
def test_a_run_learns_its_texts_and_the_file_writes_them(folder, tmp_path):
    run = CliRunner().invoke(
        main,
        ["train", str(folder / "tones.toml"), "--data", str(folder), "--output", str(tmp_path)],
    )
    assert run.exit_code == 0, run.output
    log = json.loads((tmp_path / "log.json").read_text())["epochs"]
    assert log[-1]["dev_wer"] == 0
    model = tynda.load(tmp_path / "tones.safetensors")
    assert model.header.family == "whisper"
    assert model.header.scores["m"]["wer"] == 0
    for i, text in enumerate(TEXTS):
        heard = model.transcribe(folder / f"{i}.wav", word_timestamps=True)
        assert heard.text == text
        words = [w for segment in heard.segments for w in segment.words]
        assert [w.text for w in words] == text.split()


@pytest.mark.usefixtures("all_is_speech")
def test_a_file_with_wrong_alignment_heads_is_refused(folder, tmp_path):
    settings = ["optimizer.epochs=1", "data.dev=[]", "data.train=[{manifest='m.jsonl'}]"]
    run = CliRunner().invoke(
        main,
        ["train", str(folder / "tones.toml"), "--data", str(folder), "--output", str(tmp_path)]
        + [f"--set={s}" for s in settings],
    )
    assert run.exit_code == 0, run.output
    path = tmp_path / "tones.safetensors"
    tensors, values = read_raw(path)
    for heads in ([[1, 0]], [[0, 2]], [], [[0]], "all"):
        broken = {**values, "decoding": {"alignment_heads": heads}}
        write_raw(path, tensors, broken)
        with pytest.raises(TyndaError, match="alignment_heads"):
            tynda.load(path)
    special = values["tokenizer"]["special"] | {"<|endoftext|>": 9999}
    for change, told in (
        ({"tokenizer": {**values["tokenizer"], "special": special}}, "tokens beyond"),
        ({"frontend": {**values["frontend"], "hop": 80}}, "hop of 160"),
    ):
        write_raw(path, tensors, values | change)
        with pytest.raises(TyndaError, match=told):
            tynda.load(path)
    write_raw(path, tensors, values)
    model = tynda.load(path)
    with pytest.raises(TyndaError, match="does not know the language 'xx'; it knows en"):
        model.transcribe(folder / "0.wav", language="xx")
    with pytest.raises(TyndaError, match="maximum is 23: shorten them"):
        model.transcribe(folder / "0.wav", prefix="do " * 40)
    write_raw(path, tensors, {**values, "config": {**values["config"], "decoder_layers": 60000}})
    with pytest.raises(TyndaError, match="layers are missing"):
        tynda.load(path)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("augment.splice=0.5", "augment.splice is for CTC"),
        ("optimizer.consistency=0.2", "optimizer.consistency is for CTC"),
        ("model.context=5", "raise it"),
        ("model.frames=1.5", "frames must be a whole number"),
        ("tokens=10", "from 256 to 50000"),
        ("frontend.hop=320", "hop of 160"),
        ("data.max_seconds=0.1", "longer than 0.1 s"),
        ("family='moonshine'", "moonshine cannot be trained"),
    ],
)
def test_settings_that_do_not_fit_are_told_in_a_line(folder, tmp_path, setting, told):
    run = CliRunner().invoke(
        main,
        [
            *("train", str(folder / "tones.toml"), "--data", str(folder)),
            *("--output", str(tmp_path), "--set", setting),
        ],
    )
    assert run.exit_code == 1
    assert told in run.stderr
    assert "Traceback" not in run.stderr
