"""Which tokens are special: from the tokenizer, the files beside it, names, or the config."""

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from configs.load import UserError
from data_prep.dataset.manifest import SpecialTokens
from data_prep.dataset.special_tokens import ROLES, Role, find_special_tokens
from data_prep.dataset.tokenizer import load_tokenizer, num_ids, same_tokenizer, text_tokenizer
from tests.tokenizer_kinds import KINDS, save, texts

EXPECTED = {
    "wordpiece": ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"),
    "xlm_roberta": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    "camembert": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    "modernbert": ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"),
    "llama": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    "word_level": ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"),
}


def words(*names: str, special: tuple[str, ...] = (), **ids: int) -> Tokenizer:
    """A WordLevel tokenizer of `names` in order and `ids`."""
    vocab = {name: number for number, name in enumerate(names)} | ids
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=names[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in special])
    return tokenizer


def found(tokenizer: Tokenizer, folder: Path, **names: str) -> SpecialTokens:
    roles: dict[Role, str | None] = {role: names.get(role) for role in ROLES}
    return find_special_tokens(tokenizer, folder / "tokenizer.json", roles)


@pytest.mark.parametrize("kind", KINDS)
def test_the_roles_of_published_kinds(kind: str, tmp_path: Path) -> None:
    path = save(kind, tmp_path)
    tokenizer = load_tokenizer(path)
    special = find_special_tokens(tokenizer, path)
    ids = (special.bos, special.pad, special.eos, special.unk, special.mask)
    assert tuple(tokenizer.id_to_token(number or 0) for number in ids) == EXPECTED[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_special_tokens_in_a_text_are_text(kind: str, tmp_path: Path) -> None:
    path = save(kind, tmp_path)
    special = find_special_tokens(load_tokenizer(path), path)
    plain, hidden = load_tokenizer(path), text_tokenizer(path, special)
    for text in texts(20):
        expected = plain.encode(text, add_special_tokens=False).ids
        assert hidden.encode(text, add_special_tokens=False).ids == expected
        assert hidden.encode(text).ids == plain.encode(text).ids
    names = [token for token in EXPECTED[kind] if token != EXPECTED[kind][3]]
    ids = {special.bos, special.pad, special.eos, special.mask}
    for name in names:
        for text in (name, f"a{name}b", f"{name} {name}", "".join(names)):
            assert not ids & set(hidden.encode(text, add_special_tokens=False).ids), text


def test_ids_that_are_no_ordinary_tokens(tmp_path: Path) -> None:
    tokenizer = words(
        *("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "the", "[unused0]", "oven", "<lang>"),
        special=("<lang>",),
        hot=12,
    )
    special = found(tokenizer, tmp_path)
    assert num_ids(tokenizer) == 13
    assert special.others == ((6, 7), (8, 12))  # unused, <lang>, three ids without a token
    padded = find_special_tokens(tokenizer, tmp_path / "tokenizer.json", vocab_size=16)
    assert padded.others == ((6, 7), (8, 12), (13, 16))


def test_the_files_beside_a_tokenizer_say_which_token_is_which(tmp_path: Path) -> None:
    names = ("oov", "start", "stop", "fill", "hide", "extra", "the")
    tokenizer = words(*names)
    with pytest.raises(UserError, match=r"known to be bos, pad, eos, mask\. Set tokenizer\.spec"):
        found(tokenizer, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"mask_token": {"content": "hide"}, "cls_token": "start", "pad_token": "the"})
    )
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps(
            {"sep_token": "stop", "pad_token": "fill", "additional_special_tokens": ["extra"]}
        )
    )
    special = found(tokenizer, tmp_path)
    assert special.tree() == {
        "bos": 1, "pad": 3, "eos": 2, "unk": 0, "mask": 4, "others": [[5, 6]],
    }  # fmt: skip
    (tmp_path / "special_tokens_map.json").write_text("[]")
    with pytest.raises(UserError, match=r"special_tokens_map\.json: cannot be read"):
        found(tokenizer, tmp_path)


def test_names_of_the_config_come_first_and_must_exist(tmp_path: Path) -> None:
    tokenizer = words("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "the", "[unused0]")
    assert found(tokenizer, tmp_path, mask="[unused0]").mask == 6
    with pytest.raises(UserError, match=r"special_tokens\.mask: '<mask>' is no token of .*add one"):
        found(tokenizer, tmp_path, mask="<mask>")


def test_a_tokenizer_without_a_mask_says_how_to_add_one(tmp_path: Path) -> None:
    tokenizer = words("[UNK]", "[CLS]", "[SEP]", "[PAD]", "the", "[unused0]", special=("[CLS]",))
    with pytest.raises(UserError) as error:
        found(tokenizer, tmp_path)
    assert "no token is known to be mask" in str(error.value)
    assert "candidates: [CLS], [unused0]" in str(error.value)
    assert "t.add_special_tokens(['<mask>'])" in str(error.value)


def test_two_candidates_are_named(tmp_path: Path) -> None:
    tokenizer = words("[UNK]", "[CLS]", "<s>", "[SEP]", "[PAD]", "[MASK]", "the")
    with pytest.raises(UserError, match=r"which token is bos\? Candidates: \[CLS\], <s>"):
        found(tokenizer, tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [({"pad": "[SEP]"}, "the id of pad, 2, is that of"), ({"mask": "[UNK]"}, "the id of mask, 0")],
)
def test_padding_and_mask_are_tokens_of_their_own(
    names: dict[str, str], message: str, tmp_path: Path
) -> None:
    tokenizer = words("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "the")
    with pytest.raises(UserError, match=message):
        found(tokenizer, tmp_path, **names)


def test_a_learned_piece_is_no_special_token(tmp_path: Path) -> None:
    vocab = {letter: number for number, letter in enumerate("<s>/")} | {"<s": 4, "<s>": 5}
    tokenizer = Tokenizer(models.BPE(vocab, [("<", "s"), ("<s", ">")]))
    tokenizer.add_special_tokens(["[CLS]", "[SEP]", "[PAD]", "[MASK]"])
    special = found(tokenizer, tmp_path)
    assert special.tree() == {"bos": 6, "pad": 8, "eos": 7, "mask": 9}  # no unknown token


def test_two_tokens_with_one_id_are_refused(tmp_path: Path) -> None:
    tokenizer = words("[UNK]", "[CLS]", "[SEP]", "[PAD]", "the", hot=6)
    tokenizer.add_special_tokens(["[MASK]"])  # the library numbers it from the size, 6
    with pytest.raises(UserError, match="have the same id 6"):
        found(tokenizer, tmp_path)


def test_truncation_padding_and_dropout_are_switched_off(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer = KINDS["llama"]()
    expected = tokenizer.encode(texts()[0]).ids
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=400)
    tokenizer.model.dropout = 0.5
    tokenizer.save(str(path))
    assert load_tokenizer(path).encode(texts()[0]).ids == expected


def test_what_is_done_to_a_text_belongs_to_a_tokenizer(tmp_path: Path) -> None:
    first, second = save("wordpiece", tmp_path), tmp_path / "second.json"
    tree = json.loads(first.read_text())
    tree["post_processor"], tree["truncation"] = None, None
    second.write_text(json.dumps(tree))
    assert same_tokenizer(first, second)
    tree["normalizer"]["lowercase"] = False
    second.write_text(json.dumps(tree))
    assert not same_tokenizer(first, second)
