"""Words of several scripts, and lines of random text made of them, for `make_text_crops`."""

from __future__ import annotations

import numpy as np

WORDS: dict[str, str] = {
    "latin": (
        "the of and to in is that for it was with his they this have from one had word but what some we can out other "
        "were all there when your how said each which their time will way about many then them write would like these "
        "Open Closed Exit Entrance Sale Hotel Museum Street Avenue Station Platform Bakery Coffee Pharmacy Library "
        "Please Keep Clear Warning Danger Private Parking Ticket Price Menu Soup Salad Bread Cheese Apple Orange "
        "Straße Übung fließend größer Schönheit Ärger Köln Frühstück Bahnhof Ausgang verboten können "
        "été garçon forêt où être naïve français œuvre château sœur déjà "
        "niño mañana año señor corazón también café ção São irmão pão "
        "zażółć gęślą jaźń łódź święto źródło příliš žluťoučký kůň šťastný ősz tűz győr ğüzel ışık çiçek "
        "smörgås ånd øre blåbær kjøkken þing Jūra žąsis"
    ),
    "greek": (
        "και το της είναι για από που με στην αυτό έχει ήταν άνθρωπος θάλασσα ουρανός πόλη δρόμος σπίτι βιβλίο "
        "φαρμακείο ξενοδοχείο έξοδος είσοδος καφές ψωμί νερό Αθήνα Ελλάδα Θεσσαλονίκη ημέρα νύχτα χρόνος ΠΡΟΣΟΧΗ"
    ),
    "cyrillic": (
        "и в не на что он как это было для города улица дом книга вода хлеб молоко время человек жизнь день ночь "
        "Аптека Гостиница Выход Вход Москва Київ Львів вулиця будинок школа церква ринок Банк Почта Театр Музей "
        "здравей благодаря щастие юли ѓевче љубав њега џеп ћирилица ВНИМАНИЕ"
    ),
    "hebrew": (
        "של את על לא הוא היא זה עם כל גם יש אני בית ספר מים לחם רחוב עיר יום לילה שלום תודה כניסה יציאה מלון חנות"
    ),
    "armenian": (
        "և է որ մեջ համար տուն գիրք ջուր հաց փողոց քաղաք օր գիշեր մարդ ժամանակ Երևան Հայաստան բարև շնորհակալություն"
    ),
    "georgian": (
        "და არის რომ სახლი წიგნი წყალი პური ქუჩა ქალაქი დღე ღამე ადამიანი დრო თბილისი საქართველო გამარჯობა მადლობა"
    ),
    "thai": "และ ของ บ้าน หนังสือ น้ำ ข้าว ถนน เมือง วัน คืน คน เวลา สวัสดี ขอบคุณ ทางออก ทางเข้า โรงแรม ร้านอาหาร ตลาด",
    "chinese": (
        "的一是不了人我在有他这中大来上个国和地到要以说时年生会自着去之过家学对可里后小么心多天而能好都然没日于起还发成事"
        "作当想看文无开手用主行方又如前所本见经头面公同三已老从动两长知民样现分将外但身些把最北京上海市路街店茶酒饭馆银行站口"
        "體點樓號電門車東區廣場書園醫藥龍灣"
    ),
    "japanese": (
        "のにはをたがでとしれさあるいるもするからなことして見本店駅前口東京都区町通り新宿大阪お茶ラーメンカフェコーヒー営業中"
        "入口出口注意禁止案内電話番号円税込スーパーマーケットホテルビールアイスクリームきょうとさくらゆめ"
    ),
    "korean": (
        "이 있는 하다 그 것 나 되다 수 보다 않다 없다 사람 우리 아니다 집 책 물 빵 거리 도시 날 밤 시간 "
        "서울 부산 대한민국 안녕하세요 감사합니다 출구 입구 호텔 식당 시장 약국 은행 학교 병원 "
        "커피 김치 비빔밥 영업중 주의 금지"
    ),
}
"""Words separated by blanks; scripts written without blanks (`UNSPACED`) as a row of characters."""

UNSPACED = frozenset({"chinese", "japanese", "thai"})
BARE = frozenset({"hebrew", "armenian", "georgian", "thai"})
"""Scripts whose fonts hold nothing but their letters: no digits, no punctuation, no capitals of Georgian."""

DIGITS = "digits"
SCRIPTS = (*WORDS, DIGITS)
SCRIPT_SHARES = {"latin": 0.42, DIGITS: 0.14, "cyrillic": 0.09, "greek": 0.06, "chinese": 0.09, "japanese": 0.06}
"""Shares of the scripts; those not named share the rest evenly."""


def script_shares() -> np.ndarray:
    """Probability of each of `SCRIPTS`: float64 (N,), sum 1."""
    rest = (1.0 - sum(SCRIPT_SHARES.values())) / (len(SCRIPTS) - len(SCRIPT_SHARES))
    return np.asarray([SCRIPT_SHARES.get(script, rest) for script in SCRIPTS])


def random_line(rng: np.random.Generator, script: str, length: int) -> str:
    """Make a line of text.

    Args:
        rng: Source of randomness.
        script: One of `SCRIPTS`.
        length: Words are added until they, with a blank each, have this many characters.

    Returns:
        Text in the order in which it is drawn, left to right (Hebrew therefore reversed).
    """
    parts: list[str] = []
    total = 0
    while total < length:
        numeric = script == DIGITS or (script not in BARE and rng.random() < 0.06)
        part = _number(rng) if numeric else _word(rng, script)
        parts.append(part)
        total += len(part) + 1
    line = ("" if script in UNSPACED else " ").join(parts)
    if script == "hebrew":
        return line[::-1]
    return line.upper() if script not in BARE and rng.random() < 0.18 else line


def _word(rng: np.random.Generator, script: str) -> str:
    if script in ("chinese", "japanese"):
        row = WORDS[script]
        return "".join(row[int(i)] for i in rng.integers(len(row), size=int(rng.integers(1, 5))))
    words = WORDS[script].split()
    word = words[int(rng.integers(len(words)))]
    if script in BARE:
        return word
    if rng.random() < 0.08:
        word += str(rng.choice([",", ".", ":", "!", "?"]))
    return word.capitalize() if rng.random() < 0.12 else word


def _number(rng: np.random.Generator) -> str:
    kind = int(rng.integers(6))
    a, b, c = (int(i) for i in rng.integers([1, 1, 0], [32, 13, 100]))
    letters = "".join(chr(65 + int(i)) for i in rng.integers(26, size=3))
    return (
        f"{a:02d}.{b:02d}.20{c:02d}",
        f"{a:02d}:{c % 60:02d}",
        f"{a * b}.{c:02d} {rng.choice(['€', '$', '£', '%', 'km', 'kg', 'm²', '°C'])}",
        f"{letters}-{a * c:04d}",
        f"{int(rng.integers(10**7)):07d}",
        f"({a}+{b})×{c}={(a + b) * c}",
    )[kind]
