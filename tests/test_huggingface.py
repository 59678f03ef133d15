"""Checkpoints in the hub's layout, whole and damaged."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

import tynda
from helpers import noise, write_wav
from tynda.errors import TyndaError
from tynda.store import huggingface
from whisper_peer import write_folder

OPTIONS = {"temperature": (0.0,), "max_new_tokens": 20}
OPTIONS |= {"no_speech_threshold": None, "speech_threshold": 0.0}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "whisper-nano"
    write_folder(folder, layers=1, frames=1500)
    return folder


@pytest.fixture
def folder(source, tmp_path):
    """A copy of a folder for tests that damage it."""
    return shutil.copytree(source, tmp_path / "whisper-nano")


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def shard(folder):
    """Split the weights into two shards, as in large checkpoints."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    index = {}
    for i, part in enumerate((names[:9], names[9:]), 1):
        shard = f"model-0000{i}-of-00002.safetensors"
        save_file({n: tensors[n] for n in part}, folder / shard)
        index |= dict.fromkeys(part, shard)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def test_a_folder_is_transcribed_as_openai_does(tmp_path):
    theirs = write_folder(tmp_path / "nano", layers=1, frames=1500)
    samples = noise(4)
    path = write_wav(tmp_path / "a.wav", samples)
    model = tynda.load(tmp_path / "nano")
    transcript = model.transcribe(path, word_timestamps=True, window="exact", **OPTIONS)
    options = {"sample_len": 20, "no_speech_threshold": None, "word_timestamps": True}
    expected = theirs.transcribe(
        tynda.sound.audio.load(path), temperature=0.0, fp16=False, verbose=None, **options
    )
    assert transcript.text == expected["text"].strip() != ""
    assert transcript.language == expected["language"]
    assert transcript.duration == pytest.approx(4)
    others = [s for s in expected["segments"] if s["tokens"]]
    for segment, other in zip(transcript.segments, others, strict=True):
        assert segment.to_dict()["tokens"] == other["tokens"]
        assert (segment.start, segment.end) == pytest.approx((other["start"], other["end"]))
        assert [w.text for w in segment.words] == [w["word"].strip() for w in other["words"]]
    json.dumps(transcript.to_dict())


def test_shards_and_half_precision_give_the_same(folder, source, tmp_path):
    samples = noise(2)
    expected = tynda.load(source).transcribe(samples, **OPTIONS).text
    shard(folder)
    assert tynda.load(folder).transcribe(samples, **OPTIONS).text == expected
    write_folder(tmp_path / "half", layers=1, frames=1500, dtype=np.float16)
    halved = huggingface.load(tmp_path / "half").weights["model.decoder.layer_norm.weight"]
    whole = huggingface.load(source).weights["model.decoder.layer_norm.weight"]
    assert halved.dtype == np.float32
    np.testing.assert_allclose(halved, whole, rtol=1e-3, atol=1e-3)


def test_torch_gives_the_same(source):
    samples = noise(2)
    texts = {
        tynda.load(source, backend=backend).transcribe(samples, **OPTIONS).text
        for backend in ("numpy", "torch")
    }
    assert len(texts) == 1


def test_alignment_heads_are_read_and_checked(folder):
    assert huggingface.load(folder).header.decoding["alignment_heads"] == [(1, 0), (1, 1)]
    for heads in ([[0, 1]], [[0, 1], [7, 0]]):
        (folder / "generation_config.json").write_text(json.dumps({"alignment_heads": heads}))
        assert huggingface.load(folder).header.decoding["alignment_heads"] == [(0, 1)]
    for heads in ("x", [1], [[0]], [[9, 9]]):
        (folder / "generation_config.json").write_text(json.dumps({"alignment_heads": heads}))
        assert huggingface.load(folder).header.decoding["alignment_heads"] == [(1, 0), (1, 1)]


def test_bare_encoder_decoder_names(folder):
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("model."): value for name, value in tensors.items()}
    save_file(bare, folder / "model.safetensors")
    assert huggingface.load(folder).weights.keys() == tensors.keys()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is damaged"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json is damaged"),
        (lambda f: change(f / "config.json", model_type="bert"), "'bert' are not known"),
        (lambda f: change(f / "config.json", d_model="x"), "whole number"),
        (lambda f: change(f / "config.json", d_model=33), "not even"),
        (
            lambda f: change(f / "config.json", d_model=64),
            r"but config\.json requires \(",
        ),
        (lambda f: change(f / "config.json", encoder_layers=3), r"layers\.1\S* is missing"),
        (lambda f: change(f / "config.json", activation_function="relu"), "not gelu"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "damaged"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "byte pair"),
    ],
)
def test_damaged_folders(folder, damage, says):
    damage(folder)
    with pytest.raises(TyndaError, match=says):
        tynda.load(folder)


def test_a_truncated_file(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(TyndaError, match=r"model\.safetensors is damaged"):
        tynda.load(folder)


def test_a_missing_shard(folder):
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(TyndaError, match=r"model-00002-of-00002\.safetensors is missing"):
        tynda.load(folder)


@pytest.mark.parametrize("names", [None, {"a": 1}, {"a": "../model.safetensors"}])
def test_a_damaged_index(folder, names):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(TyndaError, match="lists no shards"):
        tynda.load(folder)


def test_pickled_weights_are_refused_with_the_way_to_convert_them(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(TyndaError, match=r"pickled.*python -c .*save_pretrained"):
        tynda.load(folder)


LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]


def write_wav2vec2(folder, letters=LETTERS, **changes):
    """A random transformers model, with its tokenizer."""
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(letters),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_kernel=(10, 8),
        conv_stride=(5, 8),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        num_feat_extract_layers=2,
        **changes,
    )
    model = Wav2Vec2ForCTC(config).eval()
    with torch.no_grad():
        model.lm_head.weight *= 30  # otherwise one symbol would be decoded in every frame
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({c: i for i, c in enumerate(letters)}))
    special = {"tokenizer_class": "Wav2Vec2CTCTokenizer", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    return model


@pytest.mark.parametrize("letters", [LETTERS, LETTERS[::-1]], ids=["blank_first", "blank_last"])
def test_wav2vec2_writes_what_transformers_writes(tmp_path, letters):
    theirs = write_wav2vec2(tmp_path / "w2v", letters)
    ours = tynda.load(tmp_path / "w2v")
    samples = noise(2)
    normal = Wav2Vec2FeatureExtractor()(samples, sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        logits = theirs(normal.input_values).logits[0]
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "w2v" / "vocab.json"))
    expected = tokenizer.decode(logits.argmax(-1).tolist())
    for silent in ("<s>", "</s>", "<unk>"):  # transformers prints them
        expected = expected.replace(silent, "")
    transcript = ours.transcribe(samples, speech_threshold=0)
    assert transcript.text == " ".join(expected.split()) != ""
    assert transcript.language is None
    order = [letters.index(s) for s in ["<pad>", *[c for c in letters if c != "<pad>"]]]
    theirs_sorted = logits.log_softmax(-1)[:, order].numpy()
    np.testing.assert_allclose(ours.encode(samples), theirs_sorted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("normalize", [True, False])
def test_what_a_processor_of_transformers_saves_is_read(tmp_path, normalize):
    """Special symbols in brackets and sentence marks among the added tokens, as in tutorials."""
    folder = tmp_path / "w2v"
    letters = ["|", *"etaoinsrhdl", "[UNK]", "[PAD]"]
    vocab = tmp_path / "vocab.json"
    vocab.write_text(json.dumps({c: i for i, c in enumerate(letters)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(vocab), unk_token="[UNK]", pad_token="[PAD]")
    front = Wav2Vec2FeatureExtractor(do_normalize=normalize)
    assert len(tokenizer) == len(letters) + 2  # <s> and </s>
    theirs = write_wav2vec2(folder, [*letters, "<s>", "</s>"], pad_token_id=len(letters) - 1)
    for name in ("vocab.json", "tokenizer_config.json", "preprocessor_config.json"):
        (folder / name).unlink()
    Wav2Vec2Processor(feature_extractor=front, tokenizer=tokenizer).save_pretrained(folder)
    samples = noise(2) + np.float32(0.3)
    inputs = front(samples, sampling_rate=16000, return_tensors="pt").input_values
    with torch.no_grad():
        expected = tokenizer.decode(theirs(inputs).logits[0].argmax(-1).tolist())
    for silent in ("[UNK]", "<s>", "</s>"):
        expected = expected.replace(silent, "")
    ours = tynda.load(folder)
    assert ours.checkpoint.frontend.normalize == normalize
    assert ours.transcribe(samples, speech_threshold=0).text == " ".join(expected.split()) != ""


def write_mms(folder):
    """A random MMS model that knows two languages, with an adapter for the second."""
    symbols = {"eng": LETTERS, "kaz": ["<pad>", "<s>", "</s>", "<unk>", "|", *"тыңдақәіөұүғһ"]}
    changes = {"adapter_attn_dim": 4, "do_stable_layer_norm": True, "feat_extract_norm": "layer"}
    write_wav2vec2(folder, LETTERS, **changes)
    write_wav2vec2(folder / "other", symbols["kaz"], **changes)
    torch.manual_seed(1)
    other = Wav2Vec2ForCTC.from_pretrained(folder / "other")
    adapter = {k: torch.randn_like(v).numpy() for k, v in other._get_adapters().items()}
    save_file(adapter, folder / "adapter.kaz.safetensors")
    shutil.rmtree(folder / "other")
    vocab = {name: {c: i for i, c in enumerate(letters)} for name, letters in symbols.items()}
    (folder / "vocab.json").write_text(json.dumps(vocab))


def test_mms_transcribes_another_language_with_its_adapter(tmp_path):
    write_mms(tmp_path / "mms")
    ours, samples = tynda.load(tmp_path / "mms"), noise(2)
    assert ours.header.languages == ["eng", "kaz"]
    normal = Wav2Vec2FeatureExtractor()(samples, sampling_rate=16000, return_tensors="pt")
    theirs = Wav2Vec2ForCTC.from_pretrained(tmp_path / "mms").eval()
    texts = []
    for language in ("eng", "kaz", None):
        if language == "kaz":
            theirs.load_adapter("kaz")
        if language is None:
            theirs = Wav2Vec2ForCTC.from_pretrained(tmp_path / "mms").eval()
        with torch.no_grad():
            expected = theirs(normal.input_values).logits[0].log_softmax(-1).numpy()
        transcript = ours.transcribe(samples, language=language, speech_threshold=0)
        assert transcript.language == (language or "eng")
        got = ours.encode(samples, language)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)
        texts.append(transcript.text)
    assert texts[0] == texts[2] != texts[1]
    assert set(texts[1]) <= set("тыңдақәіөұүғһ ")


def test_a_language_without_its_adapter(tmp_path):
    write_mms(tmp_path / "mms")
    (tmp_path / "mms" / "adapter.kaz.safetensors").unlink()
    ours = tynda.load(tmp_path / "mms")
    with pytest.raises(TyndaError, match=r"adapter\.kaz\.safetensors is missing"):
        ours.prepare(ours.options(language="kaz"))
    with pytest.raises(TyndaError, match="does not know the language 'deu'; it knows eng, kaz"):
        ours.prepare(ours.options(language="deu"))
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "mms" / "adapter.kaz.safetensors")
    with pytest.raises(TyndaError, match=r"adapter\.kaz\.safetensors: tensor"):
        ours.prepare(ours.options(language="kaz"))
    write_wav2vec2(tmp_path / "w2v")
    with pytest.raises(TyndaError, match="does not state which languages"):
        tynda.load(tmp_path / "w2v").transcribe(noise(1), language="en")


def test_hot_words_take_the_models_capitals(tmp_path):
    write_wav2vec2(tmp_path / "w2v")
    model = tynda.load(tmp_path / "w2v")
    model.prepare(model.options(hotwords="zebra"))
    with pytest.raises(TyndaError, match="cannot spell '7'"):
        model.prepare(model.options(hotwords="zebra 7"))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "vocab.json").unlink(), "vocab.json is missing"),
        (lambda f: (f / "vocab.json").write_text('{"<pad>": 0, "|": 2}'), "from 0 on"),
        (lambda f: (f / "vocab.json").write_text('{"<pad>": 0, "|": []}'), "from 0 on"),
        (lambda f: (f / "vocab.json").write_text('{"<pad>": 0, "|": 1}'), "do not fit 2 symbols"),
        (lambda f: (f / "vocab.json").write_text('{"a": 0, "|": 1}'), "its blank"),
        (lambda f: (f / "vocab.json").write_text('{"<pad>": 0, "b": 1}'), "word delimiter"),
        (lambda f: (f / "vocab.json").write_text('{"<pad>": 0, "|": 1, "ab": 2}'), "distinct"),
        (lambda f: change(f / "config.json", hidden_act="relu"), "not gelu"),
        (lambda f: change(f / "config.json", architectures=5), "is not a list"),
        (lambda f: change(f / "config.json", model_type=["wav2vec2"]), "not known"),
        (
            lambda f: change(f / "tokenizer_config.json", pad_token=["x"]),
            "pad_token is not a string",
        ),
        (
            lambda f: change(f / "tokenizer_config.json", pad_token={"content": 1}),
            "is not a string",
        ),
        (lambda f: change(f / "tokenizer_config.json", word_delimiter_token=1), "is not a string"),
        (lambda f: change(f / "preprocessor_config.json", do_normalize=3), "true or false"),
    ],
)
def test_damaged_wav2vec2_folders(tmp_path, damage, says):
    write_wav2vec2(tmp_path / "w2v")
    damage(tmp_path / "w2v")
    with pytest.raises(TyndaError, match=says):
        tynda.load(tmp_path / "w2v")


def test_options_of_other_decoders_are_refused(source, tiny):
    with pytest.raises(TyndaError, match="no option alpha"):
        tynda.load(source).transcribe(noise(1), alpha=1)
    with pytest.raises(TyndaError, match="no option temperature"):
        tiny.transcribe(noise(1), temperature=(0.0,))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_files_of_a_folder_that_are_none(tmp_path, name):
    folder = tmp_path / "model"
    write_folder(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(TyndaError, match=f"{name} is not a file"):
        tynda.load(folder)
    (folder / name).unlink()
    with (folder / name).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TyndaError, match=f"{name} has more than 100,000,000 bytes"):
        tynda.load(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_no_model(tmp_path):
    os.mkfifo(tmp_path / "model")
    with pytest.raises(TyndaError, match="neither a file nor a folder"):
        tynda.load(tmp_path / "model")
