import itertools
import math
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tynda.errors import TyndaError
from tynda.heads.ctc.ngram import LanguageModel, pack, train, unpack

SENTENCES = ["the cat sat", "the cat ran", "a dog sat", "the dog ran home", "the cat sat"]


def big_text(n=400):
    """Return enough sentences to estimate the discounts, with Zipf-distributed words."""
    rng = random.Random(7)
    words = [f"w{i}" for i in range(60)]
    weights = [1 / (i + 1) for i in range(60)]
    return [" ".join(rng.choices(words, weights, k=rng.randint(1, 8))) for _ in range(n)]


def reference(sentences, order):
    """p(word, context) straight from the formulas of Chen & Goodman 1999, nothing stored."""
    padded = [["<s>", *s.split(), "</s>"] for s in sentences]

    def grams(n):
        return [tuple(s[i : i + n]) for s in padded for i in range(len(s) - n + 1)]

    def counts(n):
        if n == order:
            plain = grams(n)
        else:
            starts = [g for g in grams(n) if g[0] == "<s>"]
            plain = [*starts, *(g[1:] for g in set(grams(n + 1)))]
        return {g: plain.count(g) for g in set(plain) if g != ("<s>",)}

    tables = {n: counts(n) for n in range(1, order + 1)}

    def discount(n, a):
        t = [sum(c == k for c in tables[n].values()) for k in range(5)]
        d = [0.0, 0.5, 1.0, 1.5]
        if all(t[1:]):
            y = t[1] / (t[1] + 2 * t[2])
            estimate = [0.0, *(k - (k + 1) * y * t[k + 1] / t[k] for k in (1, 2, 3))]
            if all(0 < estimate[k] <= k for k in (1, 2, 3)):
                d = estimate
        return d[min(a, 3)]

    vocabulary = {g[0] for g in tables[1]} | {"<unk>"}

    def p(word, context):
        n = len(context) + 1
        seen = {g: a for g, a in tables[n].items() if g[:-1] == context}
        below = 1 / len(vocabulary) if n == 1 else p(word, context[1:]) if n > 1 else 0.0
        if not seen:
            return below
        total = sum(seen.values())
        a = seen.get((*context, word), 0)
        gamma = sum(discount(n, b) for b in seen.values()) / total
        return (a - discount(n, a)) / total + gamma * below

    return p, vocabulary


def states(lm, contexts):
    for context in contexts:
        state = lm.start()
        for word in context:
            _, state = lm.score(state, word)
        yield context, state


@pytest.mark.parametrize(("sentences", "order"), [(SENTENCES, 2), (SENTENCES, 3)])
def test_scores_agree_with_the_formulas(sentences, order):
    p, vocabulary = reference(sentences, order)
    lm = LanguageModel.from_arpa(train(sentences, order, decimals=7))
    assert lm.order == order
    contexts = [c for n in range(3) for c in itertools.product(sorted(lm.words), repeat=n)]
    for context, state in states(lm, contexts):
        history = ("<s>", *context)[-(order - 1) :]
        for word in vocabulary:
            expected = math.log(p(word, history))
            assert lm.score(state, word)[0] == pytest.approx(expected, abs=1e-4), (context, word)


def test_estimated_discounts_agree_with_the_formulas():
    sentences = big_text(60)
    p, vocabulary = reference(sentences, 3)
    lm = LanguageModel.from_arpa(train(sentences, 3, decimals=7))
    for context, state in states(lm, [(), ("w0",), ("w0", "w1"), ("w2", "w0"), ("w9", "w9")]):
        for word in sorted(vocabulary)[::5]:
            expected = math.log(p(word, ("<s>", *context)[-2:]))
            assert lm.score(state, word)[0] == pytest.approx(expected, abs=1e-4)


def test_unigrams_by_hand():
    # "a b", "a c": bigrams <s>a, ab, b</s>, ac, c</s>. Words before a: 1, b: 1, c: 1,
    # </s>: 2; sum 5. Too little text: D1 = 0.5, D2 = 1. gamma = (3*0.5 + 1)/5 = 0.5, the
    # uniform share of {a, b, c, </s>, <unk>} 0.2.
    arpa = train(["a b", "a c"], 2, decimals=7)
    p = {line.split()[1]: 10 ** float(line.split()[0]) for line in arpa.splitlines()[5:11]}
    assert p.pop("<s>") < 1e-90
    expected = {"a": 0.5 / 5 + 0.1, "b": 0.2, "c": 0.2, "</s>": 1 / 5 + 0.1, "<unk>": 0.1}
    assert p == pytest.approx(expected, abs=1e-6)
    # p(b|a) = (1 - 0.5)/2 + gamma(a) p(b), with gamma(a) = 2*0.5/2.
    assert f"{math.log10(0.25 + 0.5 * 0.2):.7f}\ta b" in arpa


@pytest.mark.parametrize("prune", [(0,), (0, 0, 1), (0, 1, 1), (0, 1, 2)])
@pytest.mark.parametrize("order", [2, 3, 4])
def test_every_context_sums_to_one(order, prune):
    lm = LanguageModel.from_arpa(train(big_text(), order, prune, decimals=7))
    words = [*lm.words, "</s>", "<unk>"]
    seen = [tuple(s.split()[:k]) for s in big_text()[:12] for k in range(4)]
    unseen = [("w59", "w58"), ("w58", "w59", "w57"), ("nosuchword",)]
    for context, state in states(lm, [*seen, *unseen]):
        total = sum(math.exp(lm.score(state, w)[0]) for w in words)
        assert total == pytest.approx(1.0, abs=1e-4), context
        assert lm.end(state) == lm.score(state, "</s>")[0]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=5), min_size=1, max_size=12),
    st.sampled_from([(0,), (0, 0, 1), (0, 1)]),
)
def test_any_text_gives_a_distribution(sentences, prune):
    lm = LanguageModel.from_arpa(train((" ".join(s) for s in sentences), 3, prune, decimals=7))
    contexts = [c for n in range(3) for c in itertools.product("abz", repeat=n)]
    for context, state in states(lm, contexts):
        total = sum(math.exp(lm.score(state, w)[0]) for w in [*lm.words, "</s>", "<unk>"])
        assert total == pytest.approx(1.0, abs=1e-4), context


def test_pruning_and_rounding_make_it_smaller():
    text = big_text()
    full, pruned = train(text), train(text, prune=(0, 0, 1))
    assert len(pruned) < len(full)
    assert full.count("\n") == sum(int(n) for n in counts_of(full)) + 12
    assert counts_of(pruned)[:2] == counts_of(full)[:2]
    assert counts_of(pruned)[2] < counts_of(full)[2]
    assert len(train(text, decimals=2)) < len(full)


def counts_of(arpa):
    return [int(line.split("=")[1]) for line in arpa.splitlines()[1:4]]


def test_the_same_text_gives_the_same_model():
    assert train(SENTENCES) == train(reversed(SENTENCES))
    assert train(["", *SENTENCES, "  "]) == train(SENTENCES)


def test_bad_training_input():
    with pytest.raises(TyndaError, match="no words"):
        train(["", " "])
    with pytest.raises(TyndaError, match="reserved"):
        train(["what <unk> said"])
    for order, prune in [(1, (0,)), (3, (1,)), (3, (0, 2, 1))]:
        with pytest.raises(ValueError, match="order"):
            train(SENTENCES, order, prune)


def test_vocabulary_and_state():
    lm = LanguageModel.from_arpa(train(SENTENCES))
    assert lm.words == {"the", "cat", "sat", "ran", "a", "dog", "home"}
    assert "cat" in lm
    assert "horse" not in lm
    assert all(prefix in lm.prefixes for prefix in ("", "c", "ca", "cat"))
    assert "cats" not in lm.prefixes
    _, one = lm.score(lm.start(), "the")
    _, two = lm.score(lm.start(), "the")
    _, other = lm.score(lm.start(), "a")
    assert one == two
    assert hash(one) == hash(two)
    assert one != other
    assert lm.score(one, "cat")[0] > lm.score(one, "home")[0]
    assert lm.score(one, "horse")[0] < lm.score(one, "home")[0]


def test_load(tmp_path, capfd):
    path = tmp_path / "model.arpa"
    path.write_text(train(SENTENCES))
    lm = LanguageModel.load(path)
    assert lm.words
    assert lm.order == 3
    assert capfd.readouterr() == ("", "")


def test_load_errors(tmp_path, monkeypatch):
    with pytest.raises(TyndaError, match="no language model file"):
        LanguageModel.load(tmp_path / "missing.arpa")
    with pytest.raises(TyndaError, match="is a folder, not a language model file"):
        LanguageModel.load(tmp_path)
    whole = train(SENTENCES)
    for name, text in {
        "empty": b"",
        "junk": b"hello\n",
        "noise": bytes(range(256)) * 9,
        "cut": whole[: len(whole) // 2].encode(),
        "binary": b"mmap lm http://kheafield.com/code format version 5\n\0" + bytes(90),
    }.items():
        path = tmp_path / name
        path.write_bytes(text)
        with pytest.raises(TyndaError, match=r"not an n-gram in|a binary file of KenLM") as error:
            LanguageModel.load(path)
        message = str(error.value)
        assert message.startswith(str(path))
        assert not any(word in message for word in ("\n", "Byte", "Exception", ".cc"))
    with pytest.raises(TyndaError, match="the ARPA text"):
        LanguageModel.from_arpa("junk")


def test_pack_round_trip():
    arpa = train(big_text())
    packed = pack(arpa)
    assert unpack(packed) == arpa
    assert len(packed) < len(arpa) / 2
    assert unpack(pack("қазақ\r\n\n")) == "қазақ\r\n\n"
    for damaged in (b"", b"junk", packed[:-20], packed[:40] + b"\0\0\0\0" + packed[44:]):
        with pytest.raises(TyndaError, match="damaged"):
            unpack(damaged)


def test_small_files_do_not_become_large_texts():
    packed = pack("\\data\\\n" + "-1 a\n" * 2_000_000)
    assert len(packed) < 20_000
    with pytest.raises(TyndaError, match="damaged"):
        unpack(packed)


@pytest.mark.parametrize("order", [2, 3, 5])
@pytest.mark.parametrize("prune", [(0,), (0, 0, 1)])
def test_kenlm_gives_the_same_scores(tmp_path, order, prune):
    kenlm = pytest.importorskip("kenlm")
    path = tmp_path / "model.arpa"
    path.write_text(train(big_text(), order, prune, decimals=7))
    theirs, ours = kenlm.Model(str(path)), LanguageModel.load(path)
    rng = random.Random(order)
    words = [*sorted(ours.words), "unseen"]
    for text in [*big_text(50), *(" ".join(rng.choices(words, k=6)) for _ in range(200))]:
        state, total = ours.start(), 0.0
        for word in text.split():
            log_prob, state = ours.score(state, word)
            total += log_prob
        total += ours.end(state)
        assert total == pytest.approx(theirs.score(text) * math.log(10), abs=1e-3), text


ARPA = """\\data\\
ngram 1=4
ngram 2=3

\\1-grams:
-99\t<s>\t-0.3
-1.0\t</s>
-0.7\ta\t-0.2
-0.9\tb\t-0.1

\\2-grams:
-0.5\t<s> a
-0.4\ta b
-0.2\tb </s>

\\end\\
"""


def test_a_word_that_is_in_no_n_gram_has_kenlms_probability():
    lm = LanguageModel.from_arpa(ARPA)  # without <unk>
    log_prob, state = lm.score(lm.start(), "c")
    assert log_prob == pytest.approx((-0.3 - 100) * math.log(10))
    assert lm.score(state, "a")[0] == pytest.approx(-0.7 * math.log(10))
    assert "c" not in lm
    assert "<unk>" not in lm


@pytest.mark.parametrize("mended", ["\r\n", "  \n", "\n"])
def test_white_space_and_line_ends_do_not_matter(mended):
    lm = LanguageModel.from_arpa(ARPA.replace("\n", mended).replace("\t", " "))
    assert lm.words == {"a", "b"}


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("ngram 1=4", "ngram 1=-4", "counts"),
        ("ngram 1=4", "ngram 1=99999999999999999999999", "counts"),
        ("ngram 1=4", "ngram 1=nan", "counts"),
        ("ngram 1=4", "ngram 1=5", "1-grams is not one"),
        ("ngram 1=4", "ngram 1=999999999999", "1-grams is not one"),
        ("ngram 1=4", "ngram 1=3", "another number"),
        ("ngram 1=4", "ngram 1=0", "another number"),
        ("ngram 2=3", "ngram 2=0", "another number"),
        ("ngram 2=3", "ngram 2=4", "2-grams is not one"),
        ("ngram 2=3", "ngram 3=3", "counts"),
        ("ngram 2=3\n", "", "order is 1"),
        ("ngram 2=3", "\n".join(f"ngram {n}=3" for n in range(2, 10)), "order is 9"),
        ("\\2-grams:", "\\3-grams:", "no section"),
        ("\\end\\", "", "no .end"),
        ("-0.4\ta b", "nan\ta b", "log-probability"),
        ("-0.4\ta b", "-inf\ta b", "log-probability"),
        ("-0.4\ta b", "0.1\ta b", "log-probability"),
        ("-0.4\ta b", "x\ta b", "than a number"),
        ("-0.4\ta b", "-0.4\ta b c", "than a number"),
        ("-0.4\ta b", "-0.4\ta b c d", "line 2 of its 2-grams"),
        ("-0.4\ta b", "-0.4\ta", "line 2 of its 2-grams"),
        ("-0.4\ta b", "-0.4\ta c", "no unigram"),
        ("-0.4\ta b", "-0.5\t<s> a", "twice"),
        ("a\t-0.2", "a\tnan", "back-off"),
        ("a\t-0.2", "a\t1e300", "back-off"),
        ("-0.9\tb\t-0.1", "-0.9\ta\t-0.1", "twice"),
        ("<s>", "<S>", "lacks <s>"),
        ("\tb\t", "\t" + "b" * 257 + "\t", "more than 256 bytes"),
        ("\tb\t", "\t" + "b" * 1_000_000 + "\t", "more than 256 bytes"),
    ],
)
def test_damaged_files_are_refused_with_the_reason(old, new, reason):
    assert old in ARPA
    with pytest.raises(TyndaError, match=f"not an n-gram in the ARPA format: .*{reason}") as error:
        LanguageModel.from_arpa(ARPA.replace(old, new))
    assert "\n" not in str(error.value)


def test_a_missing_context_is_refused():
    whole = train(SENTENCES, 3)
    line = next(line for line in whole.splitlines() if "\tthe cat" in line)
    count = counts_of(whole)[1]
    cut = whole.replace(line + "\n", "").replace(f"ngram 2={count}", f"ngram 2={count - 1}")
    with pytest.raises(TyndaError, match="a 3-gram's context is missing"):
        LanguageModel.from_arpa(cut)


@pytest.mark.parametrize("word", [b"\xe9", b"\xc3", b"\xc3\n-0.9\t\xa9"])
def test_other_encodings_are_refused(tmp_path, word):
    path = tmp_path / "latin.arpa"
    path.write_bytes(
        ARPA.encode().replace(b"\tb", b"\t" + word).replace(b"ngram 1=4", b"ngram 1=5")
    )
    with pytest.raises(TyndaError, match=r"latin\.arpa is not an n-gram"):
        LanguageModel.load(path)


HOSTILE = Path(__file__).parents[2] / "shared" / "cases" / "hostile"


@pytest.mark.skipif(not HOSTILE.is_dir(), reason="needs the files in ../shared/cases/hostile")
@pytest.mark.parametrize("name", ["x.arpa", "lat1.arpa"])
def test_hostile_files_are_refused(name):
    with pytest.raises(TyndaError, match="not an n-gram in the ARPA format"):
        LanguageModel.load(HOSTILE / name)
