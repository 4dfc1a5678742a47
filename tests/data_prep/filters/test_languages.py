"""The filters' limits are those of the language of each text."""

import numpy as np
import pytest
from pydantic import ValidationError

from data_prep.filters.language import LanguageConfig
from data_prep.filters.languages import known_languages
from data_prep.filters.quality import FiltersConfig, drop_reasons
from data_prep.filters.verdicts import KEPT
from data_prep.filters.words import different_stop_words
from data_prep.text.batch import TextBatch
from data_prep.text.normalise import normalise
from tests.data_prep.filters.test_filters import ENGLISH


def test_other_languages_are_dropped_under_their_code() -> None:
    german = (
        "Der Ausschuss trat am Dienstag zusammen, um den Haushalt des kommenden Jahres zu beraten, "
        "und es wurde beschlossen, neben dem alten Rathaus eine neue Bibliothek zu errichten."
    )
    config = FiltersConfig(min_words=0, min_stop_words=0, language=LanguageConfig(keep=("en",)))
    found = drop_reasons(TextBatch(normalise([ENGLISH, german])), config)
    assert found == [KEPT, "language de"]


def test_stop_words_are_a_list_or_those_of_a_language() -> None:
    english = FiltersConfig.model_validate({"stop_words": "en"})
    assert english.stop_words == ("the", "be", "to", "of", "and", "that", "have", "with")
    assert FiltersConfig.model_validate({"stop_words": ["der", "und"]}).stop_words == ("der", "und")
    with pytest.raises(ValidationError, match="no language 'xx' is known"):
        FiltersConfig.model_validate({"stop_words": "xx"})


RUSSIAN = (
    "Комитет собрался во вторник, чтобы обсудить бюджет на следующий год, и было решено построить "
    "новую библиотеку рядом со старой ратушей. Жители просили об этом с весны, когда сильный дождь "
    "повредил крышу прежнего здания и его книги, а временное помещение не может вместить всех "
    "читателей из города и из соседних деревень, которые приезжают к нам по субботам за книгами."
)
CHINESE = (
    "委员会于星期二开会讨论了来年的预算，并决定在旧市政厅旁边建造一座新的图书馆。自春天以来，居民们一直"
    "要求建造图书馆，当时的大雨损坏了原来建筑物的屋顶和其中的许多书籍。城里和邻近村庄的读者每逢星期六"
    "都会来借书，而临时的房间已经容纳不下所有的人了。"
)
HINDI = (
    "समिति की बैठक मंगलवार को हुई और उसमें आने वाले वर्ष के बजट पर चर्चा की गई। यह निर्णय लिया गया कि पुराने "
    "नगर भवन के पास एक नया पुस्तकालय बनाया जाए। निवासी वसंत से ही इसकी माँग कर रहे हैं, जब भारी वर्षा से पुराने "
    "भवन की छत और उसकी पुस्तकों को हानि हुई थी। आसपास के गाँवों के पाठक भी शनिवार को पुस्तकें लेने के लिए आते हैं।"
)


@pytest.mark.parametrize("text", [ENGLISH, RUSSIAN, CHINESE, HINDI])
def test_running_text_of_any_language_is_kept(text: str) -> None:
    assert drop_reasons(TextBatch(normalise([text])), FiltersConfig())[0] == KEPT


def test_the_limits_are_those_of_the_language() -> None:
    limits = FiltersConfig(document_language="ru")
    assert drop_reasons(TextBatch(normalise([RUSSIAN])), limits)[0] == KEPT
    assert drop_reasons(TextBatch(normalise([ENGLISH])), limits)[0] == "too few stop words"
    limits = FiltersConfig(document_language="ru", stop_words=("the", "of"))
    assert drop_reasons(TextBatch(normalise([ENGLISH])), limits)[0] == KEPT
    long_words = " ".join(["немногочисленные правительственные"] * 2 + [RUSSIAN])
    limits = FiltersConfig(max_mean_word_characters=5)
    assert drop_reasons(TextBatch(normalise([long_words])), limits)[0] == "words too long"


def test_different_stop_words_are_counted() -> None:
    text = "lorem ipsum dolor sit amet consectetur the " * 8
    limits = FiltersConfig(repetition=None, document_language="en")
    found = drop_reasons(TextBatch(normalise([text, text + "of"])), limits)
    assert found == ["too few stop words", KEPT]


def test_a_stop_word_that_is_given_twice_counts_once() -> None:
    texts = normalise(["lorem the ipsum", "lorem the of", "日本 の"])
    for words in (("the", "The", "of", "THE "), ("of", "the", "of")):
        found = different_stop_words(TextBatch(texts), words, np.array([True, True, True]))
        assert found.tolist() == [1, 2, 0]
    chosen = np.array([False, True, True])
    found = different_stop_words(TextBatch(texts), ("日本", " 日本", "の", "of"), chosen)
    assert found.tolist() == [0, 1, 2]


def test_stop_words_are_found_however_many_there_are() -> None:
    """More than there are short integers; several share the prefix of their hash."""
    words = [f"w{number}" for number in range(40_000)]
    some = [0, 1, 17, 32_766, 32_767, 32_768, 39_999]
    batch = TextBatch(normalise(["none", *(words[number] for number in some)]))
    found = different_stop_words(batch, words, np.ones(len(batch.texts), dtype=bool))
    assert found.tolist() == [0] + [1] * len(some)


def test_codes_of_languages_are_those_that_the_detector_knows() -> None:
    from resiliparse.parse.lang import supported_langs

    assert sorted(known_languages()) == sorted(supported_langs())
    with pytest.raises(ValidationError, match="no language 'zh-cn' is known"):
        LanguageConfig(keep=("en", "zh-cn"))
    with pytest.raises(ValidationError, match="no language 'eng' is known"):
        FiltersConfig(document_language="eng")
