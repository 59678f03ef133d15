"""Hybrid models: cepstra, mixtures, trees, alignment and search on cases worked by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tynda.errors import TyndaError
from tynda.heads.ctc import ngram
from tynda.heads.ctc.ngram import LanguageModel
from tynda.heads.hybrid.alignment import Graph, TooShortError, best_path, spans
from tynda.heads.hybrid.lexicon import Spelling, parse, unparse
from tynda.heads.hybrid.prefixes import PAUSE, PrefixTree
from tynda.heads.hybrid.search import Search
from tynda.heads.hybrid.states import EDGE, SILENCE, Tying
from tynda.hybrid import adaptation, boltzmann, features
from tynda.hybrid.dictionary import Dictionary, LettersToSounds
from tynda.hybrid.mixtures import Mixtures, fit
from tynda.hybrid.tree import Statistics, build, monophones
from tynda.score import errors

LEXICON = {"a": [("A",)], "ab": [("A", "B")], "b": [("B",), ("B", "A")]}
TYING = monophones(["A", "B"])


def rng(seed=0):
    return np.random.default_rng(seed)


# Features


def test_differences_are_slopes_over_five_frames():
    x = rng().standard_normal((7, 2)).astype(np.float32)
    found = features.differences(x)
    at = [x[min(max(i, 0), 6)] for i in range(-2, 9)]
    for t in range(7):
        y = at[t : t + 5]
        expected = ((y[3] - y[1]) + 2 * (y[4] - y[0])) / 10
        np.testing.assert_allclose(found[t], expected, rtol=1e-5, atol=1e-6)
    line = np.arange(9, dtype=np.float32)[:, None] * 3
    np.testing.assert_allclose(features.differences(line)[2:-2], 3)


def test_cepstra_are_the_cosine_transform_without_the_mean():
    x = rng().standard_normal((5, 40)).astype(np.float32)
    found = features.cepstra(x)
    for k in range(13):
        cosines = np.cos(np.pi * k * (np.arange(40) + 0.5) / 40) * np.sqrt(2 / 40)
        column = x @ cosines * (1 + 11 * np.sin(np.pi * k / 22))
        np.testing.assert_allclose(found[:, k], column - column.mean(), rtol=1e-3, atol=1e-3)


def test_features_do_not_depend_on_the_level_and_may_be_none():
    sound = rng().standard_normal(4000).astype(np.float32) / 10
    found = features.features(sound)
    assert found.shape == (25, features.SIZE)
    np.testing.assert_allclose(features.features(sound / 4), found, atol=2e-3)
    assert features.features(sound[:0]).shape == (0, features.SIZE)


# Mixtures


def mixtures(states=3, components=2, size=4, seed=0):
    r = rng(seed)
    weights = r.dirichlet(np.ones(components), states)
    means = r.standard_normal((states, components, size)) * 2
    variances = r.uniform(0.5, 2, (states, components, size))
    return Mixtures(*(a.astype(np.float32) for a in (np.log(weights), means, variances)))


def test_log_likelihoods_are_those_of_a_plain_loop():
    m = mixtures()
    x = rng(1).standard_normal((6, 4)).astype(np.float32)
    found = m.log_likelihoods(x, np.array([2, 0]))
    for t, (column, state) in itertools.product(range(6), enumerate((2, 0))):
        total = 0.0
        for c in range(2):
            v = m.variances[state, c].astype(float)
            density = np.exp(-0.5 * (x[t] - m.means[state, c]) ** 2 / v) / np.sqrt(2 * np.pi * v)
            total += np.exp(m.log_weights[state, c]) * density.prod()
        assert found[t, column] == pytest.approx(np.log(total), rel=1e-4)
    np.testing.assert_array_equal(m.log_likelihoods(x)[:, 2], found[:, 0])


def test_a_mixture_finds_two_clouds_and_an_empty_state_that_of_all():
    r = rng()
    x = np.concatenate([r.normal(-5, 1, (300, 2)), r.normal(5, 0.5, (600, 2))]).astype(np.float32)
    states = np.zeros(900, np.int64)
    found = fit(x, states, 2, 4)
    one = fit(x, states, 2, 1)
    assert found.log_likelihoods(x)[:, 0].mean() > one.log_likelihoods(x)[:, 0].mean() + 1
    two = fit(x, states, 2, 2)
    order = np.argsort(two.means[0, :, 0])
    np.testing.assert_allclose(two.means[0, order], [[-5, -5], [5, 5]], atol=0.2)
    np.testing.assert_allclose(np.exp(two.log_weights[0, order]), [1 / 3, 2 / 3], atol=0.02)
    np.testing.assert_allclose(two.variances[0, order, 0], [1, 0.25], rtol=0.2)
    np.testing.assert_allclose(one.means[1, 0], x.mean(0), rtol=1e-4, atol=1e-4)


def test_a_state_with_few_frames_has_few_components():
    x = rng().standard_normal((50, 3)).astype(np.float32)
    found = fit(x, np.zeros(50, np.int64), 1, 8)
    assert np.isfinite(found.log_weights).sum() == 1
    assert np.isfinite(found.log_likelihoods(x)).all()


# Trees


def statistics(value, count=100.0):
    return Statistics(count, np.array([value * count]), np.array([(value**2 + 0.1) * count]))


def test_a_tree_asks_what_tells_most():
    """The phone after, B or not, moves the values of A by 4; the phone before only by 1."""
    found = {}
    for before, after in itertools.product("AB", repeat=2):
        value = 4.0 * (after == "B") + 1.0 * (before == "B")
        found[before, "A", after, 0] = statistics(value)
        found[before, "A", after, 1] = found[before, "A", after, 2] = statistics(0.0)
    found[EDGE, SILENCE, EDGE, 0] = statistics(9.0)
    questions = [frozenset("A"), frozenset("B")]

    def grown(states, smallest=50.0):
        return build(
            ["A", "B"],
            found,
            np.array([1e-3]),
            states=states,
            smallest=smallest,
            questions=questions,
        )

    tying = grown(10)  # There are nine states without context.
    assert tying.count == 10
    first = {c: tying.states(c[0], "A", c[1])[0] for c in itertools.product("AB", repeat=2)}
    assert first["A", "A"] == first["B", "A"] != first["A", "B"] == first["B", "B"]
    tying = grown(12)
    assert tying.count == 12
    assert len({tying.states(*c)[0] for c in (("A", "A", "B"), ("B", "A", "B"))}) == 2
    assert grown(12, smallest=300.0).count == 9
    assert len(tying.silence) == 3
    again = Tying.from_dict(tying.to_dict())
    for context in itertools.product("AB#", "AB", "AB#"):
        assert again.states(*context) == tying.states(*context)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {
            "roots": st.just({SILENCE: [-1, -2, -3]}) | json_values,
            "nodes": st.lists(st.lists(st.integers(-4, 4), min_size=4, max_size=4)) | json_values,
            "questions": st.just([["A"]]) | json_values,
            "states": st.integers(-1, 5),
        }
    )
    | json_values
)
@settings(max_examples=200, deadline=None)
def test_a_damaged_tree_is_an_error_or_can_be_used(data):
    try:
        tying = Tying.from_dict(data)
    except TyndaError:
        return
    for phone in tying.roots:
        assert all(0 <= state < tying.count for state in tying.states("A", phone, EDGE))


# Lexicon


def test_a_lexicon_is_read_and_written():
    assert parse("b B\nb B A\nab A B\n\na A\na A\n") == LEXICON
    assert parse(unparse(LEXICON)) == LEXICON
    with pytest.raises(TyndaError, match="empty"):
        parse("\n \n")
    with pytest.raises(TyndaError, match="line 2"):
        parse("a A\nb\n")


@given(st.text(st.sampled_from("ab' \n\tAB1"), max_size=40))
def test_any_text_is_a_lexicon_or_an_error(text):
    try:
        found = parse(text)
    except TyndaError:
        return
    assert parse(unparse(found)) == found


def test_a_spelling_comes_back_from_its_file():
    spelling = Spelling(LEXICON, TYING)
    again = Spelling.from_dict(spelling.to_dict())
    assert again.lexicon == LEXICON
    assert len(again) == TYING.count
    assert again.symbols.count(" ") == 3
    damaged = {**spelling.to_dict(), "pieces": np.arange(40, dtype=np.uint8)}
    with pytest.raises(TyndaError, match="damaged"):
        Spelling.from_dict(damaged)
    with pytest.raises(TyndaError, match="'c' has the phone C"):
        Spelling({"c": [("C",)]}, TYING)
    with pytest.raises(TyndaError, match="no pronunciation of x, y"):
        spelling.pronunciations(["y", "a", "x"])


def test_words_of_no_dictionary_are_spelled(tmp_path):
    path = tmp_path / "words.dict"
    path.write_text("cat K AE T\ncat(2) K AA T\nbus B AH S\ndog D AO G\n")
    dictionary = Dictionary(path)
    assert dictionary.pronunciations("cat") == [("K", "AE", "T"), ("K", "AA", "T")]
    assert dictionary.pronunciations("cat's")[0] == ("K", "AE", "T", "S")
    assert dictionary.pronunciations("dog's") == [("D", "AO", "G", "Z")]
    assert dictionary.pronunciations("bus's") == [("B", "AH", "S", "IH", "Z")]
    assert dictionary.pronunciations("bog") == [("B", "AO", "G")]
    assert dictionary.pronunciations("'") == []
    with pytest.raises(TyndaError, match="cannot be read"):
        Dictionary(tmp_path / "none.dict")


def test_letters_are_aligned_with_sounds():
    pytest.importorskip("pocketsphinx")
    known = Dictionary().known
    words = [word for word in sorted(known) if word.isalpha()][::80]
    letters = LettersToSounds({word: known[word][0] for word in words if len(word) % 5})
    unseen = [word for word in words if len(word) % 5 == 0][:200]
    wrong = sum(errors(known[word][0], letters(word)).total for word in unseen)
    assert wrong < 0.4 * sum(len(known[word][0]) for word in unseen)
    assert letters("") == letters("7") == ()


# Alignment


def all_paths(graph, frames):
    """Yield every path through a graph."""

    def go(path):
        if len(path) == frames:
            if graph.last[path[-1]]:
                yield path
            return
        for node in range(len(graph.states)):
            if path[-1] in graph.before[node]:
                yield from go([*path, node])

    for node in np.flatnonzero(graph.first):
        yield from go([int(node)])


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("words", [["b"], ["a", "b"], []])
def test_the_best_path_is_that_of_all_paths(words, skip):
    graph = Graph.of([LEXICON[w] for w in words], TYING, skip=skip)
    for frames in (7, 8):
        scores = rng(frames).standard_normal((frames, len(graph.states))).astype(np.float32)
        path, score = best_path(scores, graph)
        every = [sum(scores[t, n] for t, n in enumerate(p)) for p in all_paths(graph, frames)]
        assert score == pytest.approx(max(every), rel=1e-5)
        assert score == pytest.approx(sum(scores[np.arange(frames), path]), rel=1e-5)


def test_pauses_may_be_left_out_and_a_pronunciation_is_chosen():
    graph = Graph.of([LEXICON["b"], LEXICON["a"]], TYING)
    said = [*TYING.states(EDGE, "B", EDGE), *TYING.states(EDGE, "A", EDGE)] * 2
    said = said[:6] + list(TYING.silence) + said[3:6]  # b in its second pronunciation, pause, a
    scores = np.full((len(said), TYING.count), -9, np.float32)
    scores[np.arange(len(said)), said] = 0
    path, score = best_path(scores[:, graph.states], graph)
    assert score == 0
    found = [(s.word, s.phone, s.start, s.end) for s in spans(path, graph)]
    assert found == [(0, "B", 0, 3), (0, "A", 3, 6), (-1, SILENCE, 6, 9), (1, "A", 9, 12)]


def test_too_few_frames_are_an_error():
    graph = Graph.of([LEXICON["ab"]], TYING)
    for frames in (0, 5):
        with pytest.raises(TooShortError):
            best_path(np.zeros((frames, len(graph.states)), np.float32), graph)
    best_path(np.zeros((6, len(graph.states)), np.float32), graph)
    skipped = Graph.of([LEXICON["ab"]], TYING, skip=True)
    best_path(np.zeros((4, len(skipped.states)), np.float32), skipped)


# Search


def test_the_tree_shares_beginnings():
    tree = PrefixTree.of(Spelling(LEXICON, TYING), skip=False)
    # A pause, A, B after A, B, A after B.
    assert len(tree.states) == 1 + 3 * 5
    names = [PAUSE if w == PAUSE else tree.words[w] for w in tree.ends]
    assert sorted(names, key=str) == [PAUSE, "a", "ab", "b", "b"]
    best = tree.best_below({"a": -1.0, "ab": -2.0, "b": -3.0}.get)
    assert best[0] == 0
    assert sorted(set(best)) == [-3, -2, -1, 0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("with_lm", [False, True])
def test_the_search_finds_the_best_of_all_texts(seed, with_lm):
    """Every text of up to three words is aligned, and its n-gram added."""
    lm = None
    if with_lm:
        lm = LanguageModel.from_arpa(ngram.train(["a b ab", "b a", "ab ab", "a"], 3))
    tree = PrefixTree.of(Spelling(LEXICON, TYING), skip=True)
    search = Search(
        tree, lm, alpha=0.7, beta=0.3, bonuses={"ab": 0.2}, beam_size=10_000, margin=1e9
    )
    scores = 2 * rng(seed).standard_normal((7, TYING.count)).astype(np.float32)
    best = -np.inf, ()
    for count in range(4):
        for words in itertools.product(LEXICON, repeat=count):
            graph = Graph.of([LEXICON[w] for w in words], TYING, skip=True)
            try:
                _, total = best_path(scores[:, graph.states], graph)
            except TooShortError:
                continue
            state = lm.start() if lm else ()
            for word in words:
                added, state = search.word_score(state, word)
                total += added
            if lm:
                total += search.alpha * lm.end(state)
            best = max(best, (total, words))
    words, found = search.find(scores)
    assert tuple(words) == best[1]
    assert found == pytest.approx(best[0], rel=1e-4)


def test_a_narrow_search_is_not_better_and_no_frames_are_no_words():
    tree = PrefixTree.of(Spelling(LEXICON, TYING), skip=True)
    scores = 2 * rng().standard_normal((30, TYING.count)).astype(np.float32)
    wide = Search(tree, beam_size=1000, margin=1e9).find(scores)
    narrow = Search(tree, beam_size=3, margin=2.0).find(scores)
    assert narrow[1] <= wide[1]
    assert Search(tree).find(scores[:0])[0] == []


# Adaptation and pre-training


def test_a_transform_undoes_what_was_done_to_the_features():
    m = mixtures(states=6, components=2, size=3, seed=3)
    r = rng(4)
    states, parts = r.integers(0, 6, 4000), r.integers(0, 2, 4000)
    clean = m.means[states, parts] + r.standard_normal((4000, 3)) * np.sqrt(
        m.variances[states, parts]
    )
    matrix = np.array([[1.3, 0.2, 0.0], [-0.1, 0.8, 0.1], [0.0, 0.3, 1.1]])
    said = (clean @ matrix.T + [1.0, -2.0, 0.5]).astype(np.float32)
    transform = adaptation.estimate([(said[:2000], states[:2000]), (said[2000:], states[2000:])], m)
    np.testing.assert_allclose(transform[:, :3], np.linalg.inv(matrix), atol=0.1)
    undone = adaptation.apply(transform, said)
    assert np.abs(undone - clean).mean() < 0.15
    assert np.abs(said - clean).mean() > 0.8
    few = adaptation.estimate([(said[:100], states[:100])], m)
    np.testing.assert_array_equal(few, np.eye(3, 4))


def test_a_boltzmann_machine_learns_and_becomes_a_network():
    from tynda.models import family
    from tynda.ops.numpy import NumpyOps

    r = rng()
    x = np.repeat(r.standard_normal((20, 2)), 5, axis=0).astype(np.float32)
    frames = boltzmann.spliced(x, 3, 1)
    np.testing.assert_array_equal(frames[1], x[:3].ravel())
    np.testing.assert_array_equal(frames[0, :2], 0)
    said = []
    machines = boltzmann.pretrain(np.tile(frames, (20, 1)), [16, 8], 20, 0.1, 0, said.append)
    assert len(said) == 2
    first = machines[0]
    back = first.hidden(frames) @ first.weights.T + first.visible_bias
    assert np.square(frames - back).mean() < 0.8 * np.square(frames - frames.mean(0)).mean()
    tdnn = family("tdnn")
    config = tdnn.configure(
        {
            "bins": 2,
            "vocab": 8,
            "channels": 16,
            "layers": 1,
            "splice": 3,
            "width": 1,
            "stride": 1,
            "plain": True,
        }
    )
    weights = {name: np.zeros(s, np.float32) for name, s in tdnn.shapes(config).items()}
    weights |= boltzmann.as_network([first, boltzmann.Machine(16, 16, numbers=False, rng=r)], 2)
    states = []
    tdnn.programs["encode"](
        NumpyOps(), weights, config, x[None], np.array([len(x)]), lambda _, y: states.append(y[0])
    )
    second = boltzmann.Machine(16, 16, numbers=False, rng=rng(0))
    assert states[0].shape == (100, 16)
    layer = np.tanh(np.einsum("nk,ck->nc", frames, first.weights.T / 2) + first.hidden_bias / 2)
    np.testing.assert_allclose((1 + layer) / 2, first.hidden(frames), atol=1e-5)
    deep = boltzmann.as_network([first, second], 2)
    tdnn.programs["encode"](
        NumpyOps(),
        weights | deep,
        config,
        x[None],
        np.array([100]),
        lambda _, y: states.append(y[0]),
    )
    expected = second.hidden(first.hidden(frames))
    np.testing.assert_allclose((1 + states[-1]) / 2, expected, atol=1e-5)


def test_frequencies_are_taken_from_the_outputs():
    network = pytest.importorskip("tynda.hybrid.network")
    paths = [np.repeat([0, 1], [800, 99]), np.zeros(98, int)]
    priors = network.log_priors(paths, 3)
    found = network.without_priors({"head.bias": np.zeros(3, np.float32)}, priors)
    np.testing.assert_allclose(found["head.bias"], -np.log([0.899, 0.1, 0.001]), rtol=1e-5)


def test_the_states_of_triphones_are_found_on_a_path():
    from tynda.hybrid.stages import Acoustics, Spoken, align

    said = [s for p in TYING.spell(("B", "A")) for s in p for _ in range(2)]
    said = [*said, *TYING.silence]
    spread = Mixtures(
        np.zeros((TYING.count, 1), np.float32),
        np.eye(TYING.count, dtype=np.float32)[:, None] * 9,
        np.ones((TYING.count, 1, TYING.count), np.float32),
    )
    values = 9 * np.eye(TYING.count, dtype=np.float32)[said]
    speech = [Spoken(values, ["b"], [LEXICON["b"]]), Spoken(values[:2], ["b"], [LEXICON["b"]])]
    assert align(speech, Acoustics(TYING, spread)) == 1
    assert speech[0].path.tolist() == said
    assert speech[1].path is None
    assert speech[0].triphones == [
        *(((EDGE, "B", "A", i), 2 * i, 2 * i + 2) for i in range(3)),
        *((("B", "A", EDGE, i), 6 + 2 * i, 8 + 2 * i) for i in range(3)),
        *(((EDGE, SILENCE, EDGE, i), 12 + i, 13 + i) for i in range(3)),
    ]


def test_components_that_are_dropped_again_and_again_do_not_split_without_end(monkeypatch):
    calls = 0

    def maximize(x, floor, weights, means, variances):
        # Each ninth time a component has too few frames, as near the threshold.
        nonlocal calls
        calls += 1
        assert calls < 200
        kept = len(weights) - (calls % 8 == 1)
        return weights[:kept] / weights[:kept].sum(), means[:kept], variances[:kept]

    monkeypatch.setattr("tynda.hybrid.mixtures._maximize", maximize)
    x = rng(0).standard_normal((400, 3))
    start = Mixtures(np.log(np.full((1, 5), 0.2)), x[None, :5], np.ones((1, 5, 3)))
    found = fit(x, np.zeros(400, int), 1, 8, start)
    assert found.means.shape == (1, 8, 3)
    assert 1 <= np.isfinite(found.log_weights).sum() <= 8
