"""What is left of a name beside the time that was read from it: whether it may be a part of that time.

Told by what is known to be none, whatever stands between: a number that is none of `_COUNTED` may be of the clock, a
word of one or two letters, of letters that are not Latin, or joined to the clock may be AM, PM or a zone.
"""

import re
import unicodedata

_COUNTED = re.compile(
    r"(?<![^\W_])(?:v\d\.\d+|(?:img|dsc[nf]?|gopr|wa|frame|cam|camera|ch|channel|v)[-_ ]?\d{1,5}|\d{3,4}x\d{3,4}"
    r"|0\d\d|0\d{4}|0\d{6}|[(\[]\d(?:@\d)?[])])(?![^\W_])",
    re.IGNORECASE | re.ASCII,
)
"""Numbers of cameras, pictures and copies, and sizes. Without a word only such as no clock has digits of."""
_SIGNED = re.compile(
    r"\A[^\w ~/()\[\]-]\d|[^\w\s/()\[\].,:;#@=&!'%{}~-] ?\d|(?<=[\W_])-(?:\d| \d\d)|-\d\d:"
    r"|(?<![^\W_])[PMpm]\d\d(?:\d\d)?(?!\d)"
)
"""Behind a clock: more of it, or an offset."""
_WORD, _DIGIT = re.compile(r"[^\W\d_]+"), re.compile(r"\d")
_SHORT = re.compile("[mrf]|mp|h[dq]|i[rd]|n[fr]|e[fr]|p[fr]")
_ZONE = re.compile(r"(?!LEFT|SHOT|EDIT)[A-Z]{2,3}T|CHA[SD]T|EASST|WARST")
"""In capitals, for in small letters many are words: west, cat."""
_OF_TIMES = re.compile(
    # zones
    r"utc|gmt|cet|cest|eet|eest|mez|mesz|bst|ist|jst|kst|hst|est|edt|cst|cdt|mst|mdt|pst|pdt|akst|akdt|aest|aedt"
    r"|acst|acdt|awst|nzst|nzdt|sast|sgt|hkt|msk|msd|wib|wita|haec|zulu|time|zeit|heure|hora|tid|plus|minus|africa"
    r"|america|antarctica|asia|atlantic|australia|canada|etc|europe|indian|pacific|eastern"
    # halves of a day
    r"|am|pm|ptg|noon|midday|morning|afternoon|evening|vorm|nachm|morgens|abends|mittags|vormittag|vormittags"
    r"|nachmittag|nachmittags|matin|midi|soir|tarde|manana|noche|manha|noite|mattina|pomeriggio|sera|ochtend"
    r"|middag|avond|formiddag|eftermiddag|ettermiddag|kveld|kvall|rano|popoludniu|wieczorem|dopoledne|odpoledne"
    r"|delelott|delutan|aamupaiva|iltapaiva|hommikul|ohtul|pagi|siang|sore|petang|malam|sang|trua|chieu|toi|oncesi"
    r"|sonra"
)


def unread_number(text: str) -> str:
    """The first number of a text that may be a part of a clock, in figures of any script; empty where there is none."""
    left = _COUNTED.sub("", text)
    first = next((at for at, sign in enumerate(left) if sign.isnumeric()), len(left))
    return left[first : first + 6]


def unread_word(text: str) -> str:
    """The first of a text, behind a clock, that may be AM or PM, a zone or an offset; empty where there is none."""
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", text) if not unicodedata.combining(sign))
    for match in _WORD.finditer(plain):
        word, folded, joined = match[0], match[0].casefold(), match.start() == 0
        beside = plain[max(match.start() - 1, 0) : match.start()] + plain[match.end() : match.end() + 1]
        known = _SHORT.fullmatch(folded) or (len(word) > 2 and not joined) or (_DIGIT.search(beside) and not joined)
        latin = all(unicodedata.name(sign, "").startswith("LATIN") for sign in word)
        if not known or not latin or _OF_TIMES.fullmatch(folded) or _ZONE.fullmatch(word):
            return word
    signed = _SIGNED.search(text)
    return signed[0] if signed else ""
