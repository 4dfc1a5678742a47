"""Pages in web archives in every character encoding that they state, or that is detected."""

from pathlib import Path

import pytest

from tests.data_prep.readers.warcs import page, record, response, texts_of

TEXT = "Bread is baked in an oven, and the caf\u00e9 opens on Monday at nine."
# What texts in legacy encodings hold, by encoding.
SCRIPTS = {
    "euc-kr ks_c_5601-1987 windows-949": "빵은 오븐에서 굽고 카페는 월요일에 연다. 똠방각하.",
    "shift_jis x-sjis windows-31j": "パンは窯で焼かれ、喫茶店は月曜日の九時に開く。①髙い",
    "euc-jp": "パンは窯で焼かれ、喫茶店は月曜日の九時に開く。①",
    "iso-2022-jp": "パンは窯で焼かれ、喫茶店は月曜日の九時に開く。",
    "big5 big5-hkscs": "麵包在烤箱裡烘烤，咖啡館星期一九點開門。",
    "gb2312 gbk": "面包在烤箱里烘烤，咖啡馆星期一九点开门。",
    "gb18030": "面包在烤箱里烘烤，咖啡馆星期一九点开门。㐀",
    "koi8-r windows-1251 ibm866 iso-8859-5 x-mac-cyrillic": "Хлеб пекут в печи, кафе открыто.",
    "koi8-u": "Хліб печуть у печі, кав’ярня відчинена.".replace("’", ""),
    "windows-1250 iso-8859-2": "Chléb se peče v peci, kavárna otevírá v pondělí. Żółw",
    "windows-1252 iso-8859-1 iso-8859-15 latin1 latin-1 macintosh": "Le pain cuit au four; le café",
    "windows-1253 iso-8859-7": "Το ψωμί ψήνεται στον φούρνο.",
    "windows-1254 iso-8859-9": "Ekmek fırında pişer, kahve pazartesi açılır. ığş",
    "windows-1255 iso-8859-8 iso-8859-8-i": "הלחם נאפה בתנור ובית הקפה נפתח",
    "windows-1256 iso-8859-6": "يخبز الخبز في الفرن ويفتح المقهى",
    "windows-1257 iso-8859-13 iso-8859-4": "Maize cepas krāsnī, kafejnīca atveras. ģķļņš",
    "windows-1258": "Bánh mì \u0111ã".replace("á", "a\u0301")
    .replace("ì", "i\u0300")
    .replace("ã", "a"),
    "tis-620 windows-874 iso-8859-11": "ขนมปังอบในเตาอบและร้านกาแฟเปิดวันจันทร์",
    "iso-8859-3": "Ħobż moħmi fil-forn",
    "iso-8859-10": "Brauðið er bakað í ofni, þð",
    "iso-8859-14": "Mae'r bara yn y popty ŵŷ",
    "iso-8859-16": "Pâinea se coace în cuptor șț",
    "utf-8": "Brot wird im Ofen gebacken, ハン, хлеб, 빵.",
}
PYTHON_NAMES = {
    "windows-31j": "cp932",
    "shift_jis": "cp932",
    "x-sjis": "cp932",
    "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949",
    "windows-949": "cp949",
    "euc-jp": "euc_jis_2004",
    "x-mac-cyrillic": "mac_cyrillic",
    "macintosh": "mac_roman",
    "windows-874": "cp874",
    "iso-8859-8-i": "iso8859_8",
    "gb2312": "gbk",
}
LABELS = [(label, text) for labels, text in SCRIPTS.items() for label in labels.split()]
STATEMENTS = {
    "header": ("; charset={}", ""),
    "quoted header": ('; Charset="{}"', ""),
    "meta": ("", '<meta charset="{}">'),
    "unquoted meta": (
        "",
        "<title>x</title><META name=x content='charset=utf-16'><meta charset={} />",
    ),
    "http-equiv": ("", '<meta http-equiv="Content-Type" content="text/html; charset={}">'),
    "reversed http-equiv": ("", "<meta content='text/html;charset={}' http-equiv=content-type>"),
    "after a comment": ("", '<!-- <meta charset="utf-7"> --><meta charset="{}">'),
    "wrong header, right meta": ("; charset=utf-8", "<meta charset={}>"),
}


@pytest.mark.parametrize("statement", STATEMENTS)
def test_pages_in_every_encoding_that_they_state_are_read(tmp_path: Path, statement: str) -> None:
    header, meta = STATEMENTS[statement]
    records = [
        response(
            page(text, meta.format(label)).encode(PYTHON_NAMES.get(label, label)),
            f"http://{label}",
            f"Content-Type: text/html{header.format(label)}",
        )
        for label, text in LABELS
    ]
    texts = texts_of(tmp_path, *records)
    assert len(LABELS) >= 40
    wrong = {
        label: text for (label, right), text in zip(LABELS, texts, strict=True) if text != right
    }
    assert not wrong


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wide_encodings_and_byte_order_marks_are_found(tmp_path: Path, codec: str) -> None:
    body = page(TEXT, "<meta charset=utf-8>").encode(codec)
    assert texts_of(tmp_path, response(body, "http://a")) == [TEXT]
    wrong = "Content-Type: text/html; charset=windows-1251"
    if codec in ("utf-8-sig", "utf-16", "utf-32"):  # a byte order mark is stronger than the header
        assert texts_of(tmp_path, response(body, "http://a", wrong)) == [TEXT]


def test_xml_declarations_and_detection(tmp_path: Path) -> None:
    russian = "Хлеб пекут в печи, а кафе открыто по понедельникам с девяти часов утра."
    declared = f'<?xml version="1.0" encoding="koi8-r"?>{page(russian)}'.encode("koi8-r")
    xhtml = "Content-Type: application/xhtml+xml"
    assert texts_of(tmp_path, response(declared, "http://a", xhtml)) == [russian]
    for label in ("windows-1251", "koi8-r"):  # nothing is stated, or what is stated cannot be
        body = page(f"{russian} {russian}").encode(label)
        stated = "Content-Type: text/html; charset=utf-8"
        for fields in ("Content-Type: text/html", stated):
            assert texts_of(tmp_path, response(body, "http://a", fields)) == [
                f"{russian} {russian}"
            ]


def test_utf_8_with_few_wrong_bytes_stays_utf_8(tmp_path: Path) -> None:
    body = page("Brot und Käse, süß und groß, über alle Maßen schön.").encode()
    body = body.replace(b"</p>", b" \xff</p>")
    (text,) = texts_of(tmp_path, response(body, "http://a"))
    assert text == "Brot und Käse, süß und groß, über alle Maßen schön."
    latin = response(page(TEXT).encode(), "http://a", "Content-Type: text/html; charset=iso-8859-1")
    assert texts_of(tmp_path, latin) == [TEXT]


def test_text_of_wet_files_and_plain_text_has_its_encoding(tmp_path: Path) -> None:
    koi = "Хлеб пекут в печи, а кафе открыто.".encode("koi8-r")
    records = [
        record("conversion", TEXT.encode(), "http://a"),
        record("resource", koi, "http://b", "Text/Plain; charset=KOI8-R"),
        response(koi, "http://c", "Content-Type: TEXT/PLAIN;charset='koi8-r'"),
    ]
    assert texts_of(tmp_path, *records) == [TEXT, *[koi.decode("koi8-r")] * 2]
