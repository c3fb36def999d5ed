"""Finds the legacy encoding of a caption that is not UTF-8, if only one encoding is plausible.

A wrong caption is worse than none, so each encoding has its own test, and captions that pass none stay quarantined:
UTF-16 and UTF-32 by their byte order mark; Windows-1252 (with Latin-1) by words in which accented letters stand among ASCII
letters, which no other script does, in places where Central European, Baltic and Turkish code pages have no letter; Windows-1251 and
KOI8-R by the case and frequency of Russian letters, against each other and against Greek and Hebrew; Shift-JIS by its kana.
"""

import codecs
import math
import re
import unicodedata
from collections.abc import Callable
from functools import partial

# Longest first: a shorter mark is also the start of a longer one.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf_32"),
    (codecs.BOM_UTF32_BE, "utf_32"),
    (codecs.BOM_UTF16_LE, "utf_16"),
    (codecs.BOM_UTF16_BE, "utf_16"),
)
_WORD = re.compile(r"[^\W\d_]+")


def find_encoding(data: bytes) -> str | None:
    r"""Return the name of the only plausible encoding; None if none or several are plausible.

    >>> find_encoding("crème brûlée".encode("latin-1")), find_encoding(b"\xcf\xf0")
    ('cp1252', None)
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            text = _decode(data, name)
            return name if text is not None and text.strip() and _is_clean(text) else None
    found = [name for name, is_plausible in _PROOFS.items() if (text := _decode(data, name)) and is_plausible(text)]
    return found[0] if len(found) == 1 else None


def _decode(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def _is_clean(text: str) -> bool:
    """Return whether every character is assigned, and none is a control character except white space."""
    return all(sign in "\t\r\n" or unicodedata.category(sign)[0] != "C" for sign in text)


# --- Windows-1252 -------------------------------------------------------------------------------------------------------------

# These letters are the same in the Latin code pages 1250, 1252 and 1254, and do not occur in Baltic words in the positions that the rules
# below allow. Other letters are accepted in whole words only.
_SAFE_LETTERS = re.compile(
    r"é(?!lt)|[öüßóú]|ä(?![aeo])|(?<=[a-hj-zé])í(?![iu])"
    # DOS code pages have ß, which follows a vowel, at the code of á.
    r"|(?<=[bcdfghj-np-tv-z])á(?!$)|(?<=[cgq]u)á(?!$)|(?<=[bcdfghjklmnprstv]i)á(?=[bcdfglmnprst][aeiou])|(?<=[aeio])ë(?=[a-z])|ç(?=[aouáéó]|ão|ões?$)|(?<=[aeiou])ñ(?=[aeiouáéíóú])"
    r"|ão|ãe(?=s?$)|(?<=[a-zç])õe(?=[sm]?$)|(?<![aeiouyåäö])å(?![aeiouybckptz])|(?<=b)åt|(?<=r)åk|(?<![aeiouyøæ])ø(?=[bdfghjklmnprstv])(?!si)|(?<=[bdfghjklmnprstv])æ(?![aeiouyw]|s?$)"
)
# No word has letters of both sets.
_NORTHERN, _SOUTHERN = re.compile(r"[øæå]"), re.compile(r"[áíóúñãõç]")
_ADJACENT = re.compile(r"éé|ää|öö|çã|çõ|üß|öß|äß")
_WORDS_IN_LINES = """
    lumière dernière première rivière manière matière barrière galère crème frère mère père mystère caractère misère sphère
    hivernière sorcière fougère étagère crinière jardinière cuisinière cafetière théière bière bannière carrière clairière croisière
    fermière frontière glacière gouttière lisière litière paupière poussière prière salière soupière tanière visière volière arrière
    problème système thème poème emblème deuxième troisième quatrième cinquième sixième dixième siècle pièce règle modèle fidèle
    parallèle bibliothèque chèque grecque chèvre lèvre fièvre orfèvre piège siège collège manège privilège scène ébène achète poète
    planète athlète flèche brèche crèche sèche fève grève élève célèbre zèbre algèbre cèdre remède près après très dès succès accès
    progrès procès congrès exprès grès complète discrète secrète inquiète concrète entière derrière hélicoptère atmosphère cimetière
    fête tête bête quête conquête enquête forêt arrêt intérêt prêt prête même extrême suprême pêche pêcheur rêve rêveur chêne
    fenêtre crêpe évêque être ancêtre guêpe vêtement hêtre arête crête tempête prêtre champêtre honnête êtes fêtard
    você três mês bebê português francês inglês japonês chinês escocês irlandês holandês camponês
    à là voilà déjà città libertà metà età qualità è caffè cioè tè così sì lì lunedì martedì mercoledì giovedì venerdì però può ciò
    perciò più giù virtù gioventù où papà felicità velocità università attività società verità unità novità identità capacità
    elettricità comunità possibilità visibilità modalità
    naïf naïve maïs mosaïque thaï thaïlande thaïlandais haïti caïman aïeul caraïbe hawaï faïence jamaïque laïque héroïque
    août goût coût dû sûr sûre mûr mûre brûlé brûlée brûlant flûte croûte voûte bûche bûcheron piqûre
    château châteaux pâte gâteau gâteaux théâtre bâtiment plâtre bâton âge âgé âgée âme câble pâle mâle grâce lâche pâques bâche
    tâche âne crâne pâtisserie pâtissier châtaigne châtain câlin câlins lâmpada câmera câmara ângulo âncora pântano mecânico
    mecânica romântico romântica oceânico tâmara relâmpago britânico britânica islâmico islâmica
    île îlot maître maîtresse boîte chaîne dîner cloître gîte huître abîme connaître fraîche traîneau traîneaux faîte entraînement
    hôtel côte côté drôle rôti rôtie hôpital hôpitaux tôt plutôt bientôt trône diplôme pôle cône dôme fantôme arôme contrôle rôle
    clôture icône tôle hôte hôtesse rhône saône pentecôte impôt dépôt entrepôt symptôme ônibus avô cômoda econômico econômica
    antônio
    árbol árboles ángel ángeles águila área álbum ático áfrica árabe ácido álamo índia índio ícone índice ítem
    cœur sœur œuvre œuf bœuf nœud vœu vœux œil manœuvre œillet chœur mœurs æble æbler æg ægte æske ældre manhã maçã irmã lã alemã
    romã træ knæ
está papá mamá sofá allá quizá canadá panamá bogotá olá pará maracujá chá já lá
"""
_KNOWN_WORDS = frozenset(_WORDS_IN_LINES.split())
# A Czech "no.", decoded as Windows-1252.
_CZECH_NUMBER = re.compile(r"\b[èÈ]\.")
# Punctuation that may occur between words, and where: other code pages have letters at these code points. A question has at most 1,000
# characters, because a search to the end of the line from each sign takes time that grows with the square of the caption.
_SIGNS = re.compile(
    r"""(?x)
    (?<=[a-zA-Z]{2}[a-tv-zA-Z])’s\b | (?<=n)’t\b | (?<=\bIt|\bit|\bHe|\bhe)’s\b | \b(?:I|i)’m\b | (?<=[a-z]s)’(?=\s)
    | (?:\b[ldjmtscnLDJMTSCN]|\b[Qq]u)’(?=[aeiouhyéAEIOUHYÉ]\w\w)
    | (?:(?<=\s)|(?<=^)|(?<=\())“(?=\w[^“”]*”) | (?<=[\w.,!?])”(?=\W|$)
    | (?<=[\s\d])[–—](?=[\s\d]) | (?:(?<=\s)|(?<=^))•(?=\s)
    | (?<=[A-Z0-9])[™®](?=\W|$) | (?:(?<=\s)|(?<=^))©(?=\s|\d) | (?<=\d)\s?°(?=[CF]?\b|\W|$)
    | [£€](?=\s?\d) | (?<=\d)\s?€ | (?:(?<=[\d\s])|(?<=^))[½¼¾](?=\W|$) | (?:(?<=\bm)|(?<=[ck]m))[²³](?=\W|$) | (?<=\d)[ºª](?=\W|$)
    | (?<=\d)\s?×\s?(?=\d) | (?:(?<=\s)|(?<=^))«(?=[\w\s]) | (?<=[\w.,!?\s])»(?=\W|$)
    | (?:(?<=\s)|(?<=^))¿(?=\w.{0,999}\?) | (?:(?<=\s)|(?<=^))¡(?=\w.{0,999}!) | (?<=\d)\xa0 | \xa0(?=[\d»%€]) | (?<=«)\xa0
    """
)


def _is_western(text: str) -> bool:
    """Return whether a text decoded from Windows-1252 is in a Western European language, and no other code page is possible."""
    if not _is_clean(text) or text.count("“") != text.count("”") or _CZECH_NUMBER.search(text):
        return False
    words = [word for word in _WORD.findall(text) if not word.isascii()]
    rest = _SIGNS.sub(
        lambda found: " " + "".join(sign for sign in found[0] if sign.isascii()), _WORD.sub(_ascii_only, text)
    )
    if not rest.isascii() or not all(_is_western_word(word) for word in words):
        return False
    return any(len(word) > 2 for word in words) or (not words and not text.isascii())


def _ascii_only(word: re.Match[str]) -> str:
    return re.sub(r"[^\x00-\x7f]", "e", word[0])


def _is_western_word(word: str) -> bool:
    lower = word.lower()
    if not (word in (lower, lower.upper(), lower.capitalize()) or "ß" in word):
        return False
    if lower in _KNOWN_WORDS or lower.removesuffix("s") in _KNOWN_WORDS:
        return True
    n_ascii = sum(sign.isascii() for sign in word)
    runs = [found[0] for found in re.finditer(r"[^\x00-\x7f]{2,}", lower)]
    if n_ascii < max(2, len(word) - n_ascii) or not all(_ADJACENT.fullmatch(run) for run in runs):
        return len(word) == 1 and lower in "éóöå"
    return _SAFE_LETTERS.sub("", lower).isascii() and not (_NORTHERN.search(lower) and _SOUTHERN.search(lower))


# --- Windows-1251 and KOI8-R --------------------------------------------------------------------------------------------------

# Letters in 10,000 of Russian prose.
_RUSSIAN = dict(zip(
    "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъё",
    (1097, 845, 801, 735, 670, 626, 547, 473, 454, 440, 349, 321, 298, 281, 262, 201, 190, 174, 170, 165, 159, 144, 121, 97, 94, 73, 64, 48,
     36, 32, 26, 4, 20), strict=True,
))  # fmt: skip
_MIN_RUSSIAN_LETTERS = 8
# Nats a letter, on average: Russian has -2.9, other scripts that are read as Russian mostly less than -3.3.
_MIN_LIKELIHOOD = -3.4
# Minimum difference to the likelihood of the same bytes in the other Cyrillic encoding.
_MIN_LEAD = 0.3
_RUSSIAN_SIGNS = re.compile(r"(?:(?<=\s)|^)«(?=\w)|(?<=[\w.!?])»|(?<=\s)[–—](?=\s)|№(?=\s?\d)|(?<=\w)…|\xa0")
_IMPOSSIBLE = re.compile(
    r"^[ьыъ]|[аеёиоуыэюя]{3}|[бвгджзклмнпрстфхцчшщ]{5}|(?<![аеёиоуыэюя])(?<!^)й|й[аеиуыэюяьъ]|[^бвгджзклмнпрстфхцчшщ][ьъы]|ъ(?![еёюя])"
    r"|[чщжш][ыюя]|[гкх]ы|ц[юя]|щ[^аеёинуь]"
)
# Codes at which old Macs have quotation marks and dashes.
_LONE_CAPITAL = re.compile(r"(?<!^)(?<![^\W\d_])[А-Я](?![^\W\d_])")
# One of these letters must occur. Windows-1251: Hebrew has none of the last five and no capitals, Greek has neither а nor я, and
# on old Macs я is decoded as Я. KOI8-R: Greek capitals and Thai are decoded as other small letters.
_NOT_HEBREW_OR_GREEK = re.compile(r"^(?=.*[ыьэюяА-Я])(?=.*[ая])(?!(?=.*Я)(?!.*я))")
_NOT_GREEK_OR_THAI = re.compile(r"[шэщчъВЕЖЗИ-УХЧ-ЩЭЯ]|.{16}")


def _is_russian(text: str, own: str, rival: str, evidence: re.Pattern[str]) -> bool:
    """Return whether a text decoded as Cyrillic is Russian: common letters in possible places, and no other encoding is possible."""
    words = [word for word in _WORD.findall(text) if not word.isascii()]
    letters = "".join(words)
    signs = _RUSSIAN_SIGNS.sub("", _WORD.sub(_ascii_only, text))
    if not _is_clean(text) or not signs.isascii() or _LONE_CAPITAL.search(text):
        return False
    if len(letters) < _MIN_RUSSIAN_LETTERS or not evidence.search(letters) or not all(map(_is_russian_word, words)):
        return False
    other = _decode(letters.encode(own), rival) or ""
    return _log_likelihood(letters) > max(_MIN_LIKELIHOOD, _log_likelihood(other) + _MIN_LEAD)


def _is_russian_word(word: str) -> bool:
    lower = word.lower()
    return word in (lower, lower.capitalize()) and not _IMPOSSIBLE.search(lower)


def _log_likelihood(letters: str) -> float:
    """Return the mean over the letters; minus infinity if a letter is not Russian."""
    if not letters or not set(letters.lower()) <= _RUSSIAN.keys():
        return -math.inf
    return sum(math.log(_RUSSIAN[letter] / 10_000) for letter in letters.lower()) / len(letters)


# --- Shift-JIS ----------------------------------------------------------------------------------------------------------------

_KANA = re.compile(r"[ぁ-ゖァ-ヺー]")
_JAPANESE = re.compile(r"[ぁ-ゖァ-ヺー々〆一-鿿]+")
_JAPANESE_SIGNS = re.compile(r"[　、。・「」『』（）！？：〜～＆／’“”…０-９Ａ-Ｚａ-ｚ×→★☆♪％＋＝＃]")
_MIN_KANA = 3


def _is_japanese(text: str) -> bool:
    """Return whether a text decoded from Shift-JIS is Japanese: runs of kana, common characters, no half-width katakana."""
    if not _is_clean(text) or len(_KANA.findall(text)) < _MIN_KANA:
        return False
    runs = _JAPANESE.findall(text)
    rest = _JAPANESE_SIGNS.sub("", _JAPANESE.sub("", text))
    rare = sum(len(run.encode("cp932")) // 2 for run in runs) - sum(_is_common(sign) for run in runs for sign in run)
    return rest.isascii() and rare == 0 and max(map(len, runs)) >= _MIN_KANA


def _is_common(sign: str) -> bool:
    """Return whether a character is kana or of the standard's first level; bytes of other encodings decode to the second level."""
    return sign.encode("cp932") < b"\x98\x9f"


_PROOFS: dict[str, Callable[[str], bool]] = {
    "cp1252": _is_western,
    "cp1251": partial(_is_russian, own="cp1251", rival="koi8_r", evidence=_NOT_HEBREW_OR_GREEK),
    "koi8_r": partial(_is_russian, own="koi8_r", rival="cp1251", evidence=_NOT_GREEK_OR_THAI),
    "cp932": _is_japanese,
}
