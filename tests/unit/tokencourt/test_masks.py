"""Character spans on real tokenizers: byte-level BPE and SentencePiece's kind, trained here.

It would catch: offsets counted in bytes, a mistake that begins inside a token, a token that is a part of a character,
labels shifted by special tokens, a label that silently fits nothing.
"""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from vllm_judge.errors import MaskError
from vllm_judge.tokencourt.court import Answer, Message, Span
from vllm_judge.tokencourt.masks import AfterMistake, label_tokens

TEXTS = [
    "The sum of 12 and 35 is 47, so there are 47 flamingos.",
    "First add 12, then take 5 away.",
    "Ärger über fünf",
] * 9
ANSWER = "The sum of 12 and 35 is 46, so there are 😀 46 flamingos."


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def sentencepiece_like() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False)
    tokenizer.train_from_iterator([text.replace(" ", "▁") for text in TEXTS], trainer)
    return tokenizer


@pytest.fixture(scope="module", params=[byte_level, sentencepiece_like], ids=lambda make: make.__name__)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    made = request.param()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


def answer(text: str = ANSWER, mistake: str | Span | None = None, **fields: object) -> Answer:
    if isinstance(mistake, str):
        mistake = Span(start=text.index(mistake), end=text.index(mistake) + len(mistake))
    chat = [Message(role="user", content="How many?")]
    label = {"verdict": "wrong", "labelled_by": "a person", "mistake": mistake, **fields}
    return Answer.model_validate({"id": "1", "messages": chat, "answer": text, "model": "someone", **label})


def parts(tokenizer: PreTrainedTokenizerBase, labelled: Answer, **options: AfterMistake) -> dict[int, str]:
    """The text of the tokens with each label."""
    tokens = label_tokens(labelled, tokenizer, **options)
    assert len(tokens.ids) == len(tokens.labels)
    chosen = {
        label: [i for i, at in zip(tokens.ids, tokens.labels, strict=True) if at == label] for label in (1, 0, -1)
    }
    return {label: tokenizer.decode(ids).strip() for label, ids in chosen.items()}


def test_tokens_are_right_up_to_the_mistake_and_ignored_after_it(tokenizer):
    found = parts(tokenizer, answer(mistake="46"))
    assert found == {1: "The sum of 12 and 35 is", 0: "46", -1: ", so there are 😀 46 flamingos."}
    found = parts(tokenizer, answer(mistake="46"), after=AfterMistake.wrong)
    assert found == {1: "The sum of 12 and 35 is", 0: "46, so there are 😀 46 flamingos.", -1: ""}


def test_all_tokens_of_a_right_answer_are_right(tokenizer):
    assert parts(tokenizer, answer(verdict="right")) == {1: ANSWER, 0: "", -1: ""}


@pytest.mark.parametrize("unlabelled", [{"verdict": "unknown", "labelled_by": None}, {"verdict": "wrong"}])
def test_what_is_not_known_is_no_example(tokenizer, unlabelled):
    assert parts(tokenizer, answer(**unlabelled)) == {1: "", 0: "", -1: ANSWER}


def test_a_mistake_inside_a_token_takes_the_whole_token(tokenizer):
    inside = ANSWER.index("flamingos") + 2
    found = parts(tokenizer, answer(mistake=Span(start=inside, end=inside + 1)))
    assert found[0] and "amin"[0] in found[0]
    assert (found[1] + found[0]).replace(" ", "") == ANSWER[: ANSWER.index("flamingos")].replace(" ", "") + found[0]


def test_every_token_of_a_character_of_several_tokens_is_wrong(tokenizer):
    labels = label_tokens(answer(mistake="😀"), tokenizer).labels
    assert labels.count(0) >= 4
    assert parts(tokenizer, answer(mistake="😀"))[0] == "😀"


def test_what_stands_before_the_label_is_context(tokenizer):
    start = ANSWER.index(" is 46")
    found = parts(tokenizer, answer(mistake="46", labelled_from=start))
    assert (found[1], found[0]) == ("is", "46")
    assert found[-1].startswith("The sum of 12 and 35")
    inside = ANSWER.index("flamingos") + 2
    found = parts(tokenizer, answer(mistake=Span(start=inside, end=inside + 1), labelled_from=inside))
    assert found[0]
    assert not found[1]


def test_spans_survive_the_way_to_tokens_and_back(tokenizer):
    """Every span of the answer: the wrong tokens cover it, and no token before it is wrong."""
    for start in range(len(ANSWER)):
        for end in range(start + 1, min(start + 6, len(ANSWER)) + 1):
            labelled = label_tokens(answer(mistake=Span(start=start, end=end)), tokenizer)
            first = labelled.labels.index(0)
            assert set(labelled.labels[:first]) <= {1}
            assert 1 not in labelled.labels[first:]
            encoded = tokenizer(ANSWER, add_special_tokens=False, return_offsets_mapping=True)
            spans = [span for span, label in zip(encoded["offset_mapping"], labelled.labels, strict=True) if label == 0]
            assert spans[0][0] <= start and end <= spans[-1][1]


def test_a_label_that_fits_no_token_is_one_sentence():
    made = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    words = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?")
    words.name_or_path = "words"
    with pytest.raises(MaskError) as refused:
        label_tokens(answer("a  b", mistake=Span(start=1, end=2)), words)
    assert str(refused.value) == "the mistake of '1', characters 1 to 2, fits no token of the tokenizer words."


def test_a_special_token_that_is_written_in_an_answer_is_text():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level(), eos_token="</s>")
    chat = [Message(role="user", content="How many?")]
    text = "Tom </s> has 7."
    labelled = label_tokens(
        Answer(id="a", messages=chat, answer=text, model="m", verdict="right", labelled_by="me"), tokenizer
    )
    assert tokenizer.eos_token_id not in labelled.ids
    assert tokenizer.decode(labelled.ids) == text
    assert set(labelled.labels) == {1}
