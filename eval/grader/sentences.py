"""What a completion says its answer is, in words: "the answer is 5", "so the area is 12", "9 * 2 = 18. She makes $18."

    after_announcement("Adding both gives 12. The answer is 12.")  ->  "12"

A value counts where the sentence says it of nothing else: not "at least 5", not "Step 5", not "if x were 5".
"""

import re
from collections.abc import Iterator

from eval.grader.nodes import MAX_LENGTH, NUMERALS
from eval.grader.reader import is_readable

TAIL = 20_000  # characters of a completion's end in which an unmarked answer is looked for
LINE = 400  # characters of a line or sentence that is searched as one


# "the answer is"; the last one counts. In other languages as MGSM's prompts ask for it (Shi et al. 2022)
ANNOUNCED = re.compile(
    "(?:"
    r"answers?[*\"']*(?:\s*\([^()\n]{1,30}\))?\s*(?:is|are|:|：|=|(?:turns|comes|works) out (?:to be|to|as))"
    r"|(?:has|gives?|get)\s+the\s+answer(?=\s+[-$\\\d])"
    r"|answer\s*(?:should|must|will)\s*be|\banswer\**[ \t]*\n(?=\s*\S)"
    r"|final\s+result\s*(?:is|:)|(?:correct|right|best)\s+(?:choice|option)\s+is"
    r"|solutions?\s+(?:is|are)(?=\s*[$\\\d-])"
    r"|答案】?\s*(?:是|为|：|:|(?=\s*[$\\\dA-J-]))|故?应?[选選](?:择|項|项)?\s*[：:]?\s*(?=[（(]?[A-J](?![a-zA-Z]))"
    r"|(?:respuesta(?: final)?\s*(?:es|:)|réponse(?: finale)?\s*(?:est|:)|antwort\s*(?:ist|lautet|:)"
    r"|res?posta(?: final)?\s*(?:é|è|:)|ответ|jibu(?: ni)?|答え\s*は?|정답은|คำตอบ(?:คือ)?|উত্তর|సమాధానం)"
    r"(?=[\s:：—-]*[$\\\d])"
    ")"
    r"[\s:：—]*(?:(?:therefore|thus|simply|just|only|option|choice|approximately|about|roughly|exactly|actually|equal\s+to"
    r"|clearly|then|always|indeed|obviously|given\s+by|found\s+to\s+be|the\s+(?:number|value))\s+)*"
    r"[：:]?\s*(?:\*\*)?\s*",
    re.IGNORECASE,
)
# $5$, \(5\), \[5\]
_MATH = re.compile(r"(?<!\\)\$\$?((?:\\\$|[^$])+?)(?<!\\)\$\$?|\\\((.{1,2000}?)\\\)|\\\[(.{1,2000}?)\\\]", re.DOTALL)
# Words with which a sentence continues behind its answer
_CONTINUES = re.compile(
    r",?\s+(?:or\s+(?:about|approximately|roughly)|i\.e)\b"
    r"|(?<=[\w)}%*$\]\"'])[.;!。；](?:\s|$)|,\s+(?=[a-z]{2,}\b)(?!and |or |pi\b)"
    r"|\s+(?=(?:as|by(?!\s+\d)|since|because|so|which|where|when|for|if|using|after|from|with|that|upon|given)\s)"
    r"|\s[—–]\s|\s-\s(?=[a-zA-Z]{2})|\*\*|(?<=\d)\s+(?=\()|\s+(?=\((?:not\b|since\b|because\b|as\b|≈|\$?\\approx))"
)
_SENTENCE_END = re.compile(r"(?<=[\w)}%$\]])[.!?。](?:\s+(?=[^a-z\s])|\s*$)")  # the volume is 120. That is all.
_CLAUSE = re.compile(  # $5$ because 2 + 3 = 5, $\frac12$ (or 0.5)
    r"\W*(?:as|by|since|because|so|which|where|when|for|if|using|after|from|with|that"
    r"|(?:is|are) (?:the|our|an?))\b|\s+\((?:or|about|≈)|[.,;:!?)\s。；]*$|[.!。]\s+(?!\d)"
)
_JSON_END = re.compile(r"(?:\"|(?<=\d))\s*\}\s*\Z")  # {"answer": 5}
_TAKEN_BACK = re.compile(  # The answer is 7 - no, sorry, it should be 8
    r"(?<=[—–.,?!-] )no, |\b(?:sorry|oops|wait|scratch that|hold on|I mean|correction|th(?:is|at)(?: i|')s wrong)\b",
    re.I,
)
_WHETHER = re.compile(  # if the answer is 6, then
    r"(?:\b(?:if|suppose|assum\w+|guess\w*|whether|doubt|impossible that|mistake"
    r"|(?:might|may|could|would) (?:think|say))\b"
    r"[^.,;:\n]*|\b(?:wrong|incorrect|false|first)\s*|(?:若|如果|假设)[^。，\n]*)$",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"\s*(?:\w+ly )?(?:not|never|neither|incorrect|wrong|unlikely)\b|\s*不", re.I
)  # The answer is not 6


def _denied(text: str, said: re.Match[str]) -> bool:
    """Whether it is said of something that is not the answer, or only might be."""
    return bool(_DENIED.match(text, said.end()) or _WHETHER.search(text[max(0, said.start() - 40) : said.start()]))


# One of them is in every announcement: looking for them first is ten times as fast
_ANNOUNCING = ("nswer", "NSWER", "inal result", "olution", "hoice", "ption", "espuesta", "ntwort", "posta", "ibu")
_ELSEWHERE = ("案", "选", "選", "éponse", "твет", "答え", "정답", "คำตอบ", "উত্তর", "సమాధానం")


def _announcements(text: str) -> list[re.Match[str]]:
    words = _ANNOUNCING if text.isascii() else (*_ANNOUNCING, *_ELSEWHERE)
    if not any(word in text for word in words):
        return []
    return [match for match in ANNOUNCED.finditer(text) if not _denied(text, match)]


def labelled(text: str) -> str | None:
    """The number behind a label on the last line, `A: 26`, of a plain text that announces nothing: the usual case."""
    found = _LABELLED.search(text, max(0, len(text) - 40))
    plain = found and text.isascii() and "```" not in text and not any(word in text for word in _ANNOUNCING)
    return found[1] if found and plain else None


_LABELLED = re.compile(r"\n[A-Za-z]{1,12}: (-?\d[\d,]*(?:\.\d+)?)\s*\Z")


def announced(text: str) -> str | None:
    """The line that follows the last announcement, whatever it says; None without one."""
    ends = _announcements(text)
    return text[ends[-1].end() :].lstrip().partition("\n")[0].strip("*. ") if ends else None


def after_announcement(text: str) -> str | None:
    """What the last announcement says the answer is; None without one."""
    ends = _announcements(text)
    if not ends:
        return None
    rest = text[ends[-1].end() :].lstrip()
    if re.match(r"[^\n]+(?:=\s*\n|\n\s*=)", rest):  # 3 + 5 = on one line, 8 on another
        rest = rest.rpartition("=")[2].lstrip()
    line = rest.partition("\n")[0]
    line = _JSON_END.sub("", line) if '"' in ends[-1].group() else line
    if other := _RATHER_THAN.search(line):
        line = line[: other.start()]
    if taken_back := _TAKEN_BACK.search(line):
        return within_sentence(line[taken_back.end() :])
    block = _MATH.match(rest)  # may go over several lines
    if block and _CLAUSE.match(rest[block.end() :].partition("\n")[0]):
        return _formula(block)
    return _tidy(line)


def _formula(match: re.Match[str]) -> str:
    """What stands between the marks of a formula."""
    return " ".join(next(group for group in match.groups() if group).split()).rstrip(" .,")[: MAX_LENGTH + 1]


def _unpunctuated(text: str) -> str:
    """Without the punctuation that ends a sentence; three dots belong to a list."""
    text = re.sub(r"(?<=[$*])!+\s*\Z|(?<=[\d$)])\s*(?:です|입니다)[.。]?\s*\Z", "", text)
    return text if text.rstrip().endswith("...") else text.rstrip('.,;:*" \t\r\n。；')


def _tidy(said: str) -> str | None:
    """What follows "the answer is", without Markdown, a sentence's end, or the sentence that continues."""
    said = re.sub(r"^'(.*)'(\W*)$", r"\1\2", said.strip().strip('*`"“”')).strip()
    said = re.sub(r"^([（(]?[A-J][）)]?)\s*(?:选项|選項|项)", r"\1", said)
    whole = _unpunctuated(said)
    if whole and (is_readable(whole) or re.match(r"(?:yes|no)[,:;.!]\s", whole, re.IGNORECASE)):
        return whole
    if _OPTION.match(said):
        return _unpunctuated(_SENTENCE_END.split(whole)[0])
    if re.search(r"\botherwise\b", said):
        return said
    math = _MATH.match(said)
    if math is None or not re.match(r"[^.;]{0,30}$", said[math.end() :]):
        said = _CONTINUES.split(said)[0]
    said = _unpunctuated(said)[: MAX_LENGTH + 1]
    if said and not is_readable(said):
        said = within_sentence(_SENTENCE_END.split(whole)[0]) or said
    return said or None


# The volume of the cone is 120
_SAYS = re.compile(
    r"\b(?:is|are|be|equals?|equal to|(?:gives?|leaves?|makes?)(?: (?:us|him|her|them))?|gets?|obtain|have|has|had"
    r"|[Tt]hat's|[Ii]t's|was|were|total of)\b\s*:?|(?<!\d)[:：]|[=≈]|为|是|得到?"
)
_NAMES = re.compile(r"(?:\b(?:is|are|be|was|were)|[:：=]|为|是)\s*$")  # what stands behind may be words
# Before an answer: it is not that, or not that alone
_NOT_ALONE = re.compile(
    r"(?:\b(?:not|cannot|neither|nor|never|than|least|most|base|either|between|times|plus|minus|maybe|perhaps|depends"
    r"|except|but|when|(?<!answer )could be|(?<!answer )m(?:ight|ay) be|(?<!add )(?<!adds )up to|exceed\w*"
    r"|(?:root|square|cube|half|third|quarter|none|all|factor|multiple|divisors?|power|digits?) of"
    r"|divisible by|close to|if|suppose)\b|n't\b|[不非若设令当]|大于|小于|超过|至[少多])"
    r"(?:(?!\b(?:is|are|was|were|equals)\b|[=:])[^.\d]){0,24}$"
    r"|\b(?:or|with|where|for|when|using|at|if|as|by|since|because|let|letting|setting|try|in|substituting|plugging|taking|choosing)\s+\$?[a-z](?:_\w)?\s*=\s*$"
    r"|[若设令当取]\s*\$?[a-z]\s*[=为]\s*$|\bwho (?:is|was|has|had)\s*$",
    re.IGNORECASE,
)
# A number of which something else is said: by 5, after 5, f(5); but not "it grew by 5", "at 4:30"
_OBJECT = re.compile(r"\b(?:by|with|at|after|before|than|from|for|when|using)\s*$|\w\($", re.IGNORECASE)
_GREW = re.compile(r"\b(?:increas|decreas|reduc|gr[eo]w|ris|rose|f[ae]ll|chang|differ|(?:up|down)\b)\w*\s+by\s*$")
# A number that names a part of the text: Step 25, Figure 3, equation (5), 步骤3
_NUMBERED = re.compile(
    r"(?:\b(?:steps?|cases?|fig(?:ure|\.)|tables?|eq(?:uations?|n?\.)|theorem|lemma|pages?|chapter|section|problem|question"
    r"|line|part|method|examples?|round|exercise|rows?|columns?|note|formula)|[第步骤图表题式])\s*[(#]*\s*$",
    re.IGNORECASE,
)


_LAST = re.compile(  # they meet at (2, -1); it falls on a Tuesday
    r"[(\[][^()\[\]]*\d[^()\[\]]*,[^()\[\]]*[)\]]\Z"
    r"|\b(?:on|is|be|was) (?:an? )?((?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day)\Z"
)


def within_sentence(said: str, concluding: bool = True) -> str | None:
    """What a sentence says "is" or "="; where it is `concluding`, also its last formula or its only number."""
    said = _unpunctuated(said)
    plain = re.sub(r"\\(?:text|mbox|textbf|mathrm)\s*\{|\\[a-zA-Z]+", " ", said)
    formulas = list(_MATH.finditer(said)) if len(said) <= 4 * MAX_LENGTH else []
    if not formulas and len(re.findall(r"[a-zA-Z]{2,}", plain)) < 2 and not re.search(r"[\u4e00-\u9fff]", said):
        return None  # no sentence
    for start, found in _candidates(said, formulas, concluding):
        text = re.sub(r"^(?:on|in) (?:an? )?(?=[A-Z])", "", _unpunctuated(found).lstrip("*: "))  # on a Wednesday
        alone = not _NOT_ALONE.search(said, max(0, start - 60), start)
        named = said[start : start + 1] in ("$", "\\") or _NAMES.search(said, 0, start)
        words = 3 if named and not re.search(r"\d", said) else 0
        if text and alone and is_readable(text, words):
            return text
    if not concluding:
        return None
    behind = said[formulas[-1].end() :] if formulas else ""
    if (
        formulas
        and _CLAUSE.match(behind)
        and not _CHANGES.match(behind)
        and not _NOT_ALONE.search(said, 0, formulas[-1].start())
    ):
        return _formula(formulas[-1]) or None
    if (last := _LAST.search(said)) and is_readable(last[0].split()[-1] if last[1] else last[0]):
        return last[1] or (None if _NOT_ALONE.search(said, 0, last.start()) else last[0])
    numbers = list(_NUMBER.finditer(said))
    money = [number for number in numbers if "$" in number.group()]
    numbers = money if len(money) == 1 else numbers  # she spends $70 on 5 baskets
    place = numbers[0].start() if len(numbers) == 1 else 0
    if len(numbers) != 1 or any(p.search(said, 0, place) for p in (_NOT_ALONE, _NUMBERED)):
        return None
    if _OBJECT.search(said, 0, place) and not _GREW.search(said, 0, place) and ":" not in numbers[0].group():
        return None
    return None if _CHANGES.match(said, numbers[0].end()) else numbers[0].group().strip()


def _candidates(said: str, formulas: list[re.Match[str]], concluding: bool) -> Iterator[tuple[int, str]]:
    """What may be the answer of a sentence, with its place: the likeliest first."""
    says = list(_SAYS.finditer(said))
    last = formulas[-1] if formulas else None
    if last and not (says and says[-1].start() >= last.end() and re.search(r"[\d$\\]", said[says[-1].end() :])):
        start, behind, inside = last.start(), said[last.end() :], _formula(last)
        changed = _CHANGES.match(behind)
        if _CLAUSE.match(behind) and not changed and not (len(inside) == 1 and behind.startswith(" is a")):
            yield start, inside
            yield start, inside.rpartition("=")[2]
        elif not changed and len(behind) <= 30 and (says or concluding):
            yield start, said[start:]
            if re.fullmatch(r"[ a-z/]+", behind):  # pay \\( \\$25 \\) in fees, a total of $180 + 24 = 204$ minutes
                yield start, inside
                yield start, inside.rpartition("=")[2]
    for match in says[-4:]:  # the solutions are x = -2, y = 3; this gives x + y - 2 = 0
        if match.group() != "=" and (said.count("=", match.end()) > 1 or re.search(r"[-+]\s*\w+\s*=\s*0\Z", said)):
            yield match.end(), said[match.end() :]
    for match in reversed(says[-3:]):
        rest = said[match.end() :]
        yield match.end(), rest
        yield match.end(), _CONTINUES.split(rest)[0]
        number = _NUMBER.match(rest.lstrip())
        if number and not re.search(r"[\d$\\]", tail := rest.lstrip()[number.end() :]) and not _CHANGES.match(tail):
            yield match.end(), number.group()


# -- the last thing said

# Possessive quantifiers: a run of digits is read once, however long
_NUMBER = re.compile(
    r"(?<![a-zA-Z0-9_.,^/{\\:])(?<!\d[-–])[-−+]?\s?\$?(?:\d{1,3}(?: \d{3})+(?!\d)|\d(?:,?\d)*+\.?\d*+|\.\d++)"
    r"(?:/\d++|:\d++(?::\d++)*(?:\s?[ap]\.?m\b)?)?(?:\\?%|e[-+]?\d++)?(?:\s+(?:thousand|million|billion|trillion))?"
    r"(?![-–]\d)(?:(?![a-zA-Z0-9_])|(?=(?:[ckm]?m[²³]|[ckm]m|kg|mg|ml|mL|km/h)(?![a-zA-Z0-9_])))"
)
_CHANGES = re.compile(  # 5 less than that, 5\text{ at most}
    r"(?:\\text|\W)*(?:at\s+(?:most|least)|times(?!\W*$|\s+(?:from|in|an?|per|each|every|for|on|during)\b)"
    r"|plus|minus|less|fewer|more than|or|versus|vs|ones|tens"
    r"|tenths|hundredths|(?:is|are|was)(?:n't|\s+(?:not|wrong|incorrect|impossible|false|too))|(?:do|does|did|would)(?:n't|\s+not)"
    r"|can't|cannot|and\s+an?|\w+ to (?:consider|check|examine|try|solve|test))\b"
)
# so we pick (D)
_LETTER_LAST = re.compile(
    r"(?:^|(?:choice|option|answer|is|it's|choose|pick|select|go(?:ing)? with)[:\s]+)\(?([A-J])\)?(?: here)?[.!]?\**$"
)
# Therefore, B is correct.
_LETTER_IS_RIGHT = re.compile(r"\(?\b([A-J])\)?\s+is\s+(?:the\s+)?(?:correct|right|best)\b")
# We get 7 rather than 8.
_RATHER_THAN = re.compile(r"(?<=\d),? (?:and )?(?:not|rather than|instead of) [^.\n]{1,30}[.\s]*\Z")


def last_said(text: str, cut_off: bool = False) -> str | None:
    """The answer of a completion that announces none: a bare expression, a letter, or what it concludes.

    One that was `cut_off` concludes nothing.
    """
    stripped = text.strip().strip("*").strip()
    whole = _LED_BY.sub("", _unpunctuated(stripped))
    line = text.rstrip().rpartition("\n")[2].strip().strip("*").strip()
    if (line == stripped or "\\begin" in whole) and is_readable(whole):
        left, equals, right = whole.rpartition("=")
        return right.strip() if equals and not re.search(r"[a-zA-Z]", re.split("[,;]", left)[-1]) else whole or None
    is_formula = "\\" in whole and whole.isascii() and not re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{3}|box", whole)
    if line == stripped and is_formula and whole.count("{") == whole.count("}"):
        return whole  # one that the reader does not know
    if stripped.rstrip(".").endswith(("\\]", "$$")):  # a formula on lines between its marks
        opening = "\\[" if stripped.rstrip(".").endswith("\\]") else "$$"
        inside = stripped.rstrip(".")[:-2].rpartition(opening)[2]
        if inside.strip() and len(inside) <= MAX_LENGTH:
            return " ".join(inside.split()).rstrip(" .,") or None
    clause = _CONSEQUENCE.split(line)[-1].strip(".* \t\r\n")
    letter = _LETTER_IS_RIGHT.search(clause) or _LETTER_LAST.search(clause)
    if letter and not re.search(r"\bnot\b|n't", clause):
        return letter[1]
    return None if cut_off else _concluded(text)


_LED_BY = re.compile(  # So 42; it's 42; → 42
    r"^(?:(?:so|thus|hence|therefore|then|and)\b[,:]?\s+)?(?:(?:I think |it must be that )?(?:it|that|this)"
    r"(?:'s| is| makes| gives| equals)\s+|[=→⇒⟹∴]\s*|\\(?:therefore|implies|Rightarrow|to)\s+)?",
    re.IGNORECASE,
)
# Therefore, the area is 12
_CONCLUDING = re.compile(
    r"\W*(?:\w[\w ]{0,20}\]\s*)?(?:(?:and |so |then )?(?:so|thus|hence|therefore|consequently"
    r"|in (?:conclusion|summary|total)|(?:that|this) (?:means|implies|shows)(?: that)?|finally|altogether"
    r"|overall|conclusion)\b"
    r"|所以|因此|综上(?:所述)?|故|答|结论|总之)[,:，：]?\s*",
    re.IGNORECASE,
)
_IN_TOTAL = re.compile(r"\b(?:in total|altogether|in all)\b|[总一]共", re.IGNORECASE)  # He pays $460 in total.
_MARKS = re.compile(r"^[#>*\s]+|\*+$|</?[a-z]+>")  # ### 25, > 12, <b>12</b>
_OPTION = re.compile(r"\(?[A-J][.)]\s")
_LABEL = re.compile(
    r"(?:[A-Za-z]\w{0,15}|[^\W\d_a-zA-Z][^\s\d:：=]{0,15}(?: [^\s\d:：=]{1,15})?(?=[:：])"
    r"|[\d(][\d\s.+*/×x()-]{0,39})\s*[:：=]\s*"
)  # A: 96, 3 x 4 = 12
# 3 hours, so its speed is 60: what stands before says how
_CONSEQUENCE = re.compile(
    r"[,;，]?\s+(?:so|thus|hence|therefore|giving|which (?:means|gives)(?: us)?|meaning|that is(?=,)"
    r"|(?:and )?we (?:conclude|find|get|obtain|see|deduce)"
    r"|(?:which )?(?:we )?round\w*(?: up| down)? to)\b(?: that\b)?|，(?:所以|因此|故|则)"
)
_REASON = re.compile(r"(?<=.),?\s+\(?(?:since|because|as)\b")  # 25, since 5 * 5 = 25
_SUPPOSED = re.compile(  # if it were 6, the sum would be 30
    r"\b(?:if|suppose|assum\w+|would have to|unless|impossible|contradict\w+|fails?|wrong|incorrect"
    r"|at first|whether|doubt|in progress|mistake|first (?:answer|guess|attempt)"
    r"|(?:might|may|could|would) (?:think|say))\b|^\W*(?:where|given)\b[^,]*$|, find\b"
    r"|(?:^|\bwe |^\w+,? )(?:now |then )?(?:add|subtract|multiply|divide|consider"
    r"|try|let|plug|compute|use|substitute|set|choose|take)\b|\?\W*$",
    re.IGNORECASE,
)
# the larger one is 18 and the smaller one is 7
_SAYS_VALUE = re.compile(r"(?:\b(?:is|are|was|were|has|have|had|gets?|takes?)\b|[=为是])\s*(?=[-\d$\\])")
_BESIDE = re.compile(r"\b(?:and|while|whereas|but)\b|[;；，而]")
_UNFINISHED = re.compile(
    r"(?:[,:;=+*/(，：；-]|\b(?:to|the|of|and|or|we|an?|is|are|that|with|for|by|in|as|then|get"
    r"|would|will|can|could|should|has|have|had|there|this|if|so|from|at|on|each|every|which|where|when|because|since"
    r"|but|than|not|also))\s*\Z"
)


def _concluded(text: str) -> str | None:
    """What the last sentence states, or an earlier one that begins with "so" or "therefore"; None of a text cut off."""
    if _UNFINISHED.search(text, max(0, len(text) - 20)):
        return None
    last = _MARKS.sub("", text.rstrip().rpartition("\n")[2]).strip()
    point = re.fullmatch(r"(\d{1,2})[.)]?", last)
    if point and re.search(rf"\n\s*{int(point[1]) - 1}[.)] [^\n]*\n+\s*\d+[.)]?\Z", text):
        return None  # the number of a point that was not written
    label = _LABEL.match(last)
    if label and is_readable(value := _unpunctuated(last[label.end() :])):
        return value
    lines = [_MARKS.sub("", line).strip() for line in text[-5 * LINE :].split("\n") if line.strip()]
    if len(lines) > 1 and _OPTION.match(lines[-1]) and _OPTION.match(lines[-2]):
        return None  # the options again
    sentences = [sentence for line in lines for sentence in _SENTENCE_END.split(line) if sentence.strip()]
    for i, sentence in enumerate(reversed(sentences[-6:])):
        begun = _CONCLUDING.match(sentence)
        if not begun and i:
            continue
        worked = not i and sum(bool(_NUMBER.search(said)) for said in sentences[:-1]) > 1  # the end of a calculation
        concluding = begun is not None or worked or _IN_TOTAL.search(sentence) is not None
        found = None if i else _calculated(sentence)
        found = found or _stated(sentence[begun.end() if begun else 0 :], concluding)
        found = found or (None if i else _computed(text, sentence))
        if found is not None:
            return None if _goes_on(sentence, found, sentences[len(sentences) - i :]) else found
        if begun and _NUMBER.search(sentence):
            return None  # it concludes something else
    return None


_WEAKLY = re.compile(r"\W*(?:so|then|and|that|this|所以)\b", re.IGNORECASE)
_CHECKS = re.compile(r"\b(?:check|verif|confirm|indeed|double-check)\w*", re.IGNORECASE)


def _goes_on(sentence: str, found: str, later: list[str]) -> bool:
    """Whether the calculation goes on after a "so": other numbers follow, and not to check it."""
    if not _WEAKLY.match(sentence) or any(_CHECKS.search(said) for said in later):
        return False
    return any(number.group().strip(" $") not in found for said in later for number in _NUMBER.finditer(said))


# Then add both costs: $33 + $99 = $132 in total.
_CALCULATION = re.compile(
    r"\d[a-z%$/.\s]{0,30}[-–+*/x×÷−]\s*[\d$(.][^=\n]{0,200}=\s*\**\\?\$?\s*(-?\d[\d,]*(?:\.\d+)?%?)"
    r"(?![\d/^*×√(]|\s?\\?[πpxyni](?![a-hj-z])| (?:or|vs|versus)\b)"
    r"(?!.{0,80}\b(?:of (?:the )?\d|is|are|was|were|means|so)\b)[^=<>]{0,80}\Z"
)
_HYPOTHETICAL = re.compile(
    r"\b(?:were\b.*\bwould|suppose|assum\w+|let|try|guess\w*|impossible|contradict\w+|fails?|wrong|incorrect|mistake|unless"
    r"|whether|check|verif\w+|at (?:least|most)|(?:is|does|do|are) not|continue|proceed)\b|(?:is|does|do|are)n't\b|\?",
    re.IGNORECASE,
)


def _calculated(sentence: str) -> str | None:
    """What the calculation comes to with which a sentence ends."""
    found = _CALCULATION.search(sentence)
    return found[1] if found and not _HYPOTHETICAL.search(sentence) else None


# 9 * 2 = 18. She makes $18 a day.
_RESULT = re.compile(
    r"(?<![-+*/<>!=.])\s*[=≈]\s*\**\\?\$?\s*(-?\d[\d,]*(?:\.\d+)?)"
    r"(?![\d.,]*\s*(?:[-+*/×÷=^√(]|\\?[πpxyni](?![a-hj-z])))"
)


def _computed(text: str, sentence: str) -> str | None:
    """The number of the last sentence that the last calculation came to."""
    place = text.rfind(sentence)
    results = [_plain(result) for result in _RESULT.findall(text, max(0, place - LINE), place)]
    within = list(_RESULT.finditer(sentence))
    if within and re.fullmatch(r"[\s.*$\\)]*(?:[a-z]+[\s.*]*)?", sentence[within[-1].end() :]):
        results.append(_plain(within[-1][1]))
    if not results or _SUPPOSED.search(sentence):
        return None
    sentence = _NUMERAL.sub(lambda m: str(NUMERALS[m[1].lower()]), sentence)
    *_, same = [None, *(n for n in _NUMBER.finditer(sentence) if _plain(n.group()) == results[-1])]
    if same is None or _CHANGES.match(sentence, same.end()) or _SAYS.search(sentence, same.end()):
        return None
    return None if any(p.search(sentence, 0, same.start()) for p in (_NOT_ALONE, _NUMBERED)) else results[-1]


_NUMERAL = re.compile(rf"(?<![\w-])({'|'.join(NUMERALS)})(?![\w-])", re.IGNORECASE)  # thirteen


def _plain(number: str) -> str:
    return number.strip(" $").replace(",", "").rstrip(".")


_ASIDE = re.compile(r"(?<=[a-z]) \((?=[^()=]*[a-z]{2})[^()=\\]*\)")  # 160 minutes (2 hours and 40 minutes)


def _stated(sentence: str, concluding: bool) -> str | None:
    """The one value that a sentence states, of nobody's asking."""
    main = re.sub(r"^(?:Since|Because|As|[A-Z]\w+ing)\b[^,=]*, (?:which means )?(?=[a-zA-Z])", "", sentence)
    concluding, sentence = concluding or main != sentence, _ASIDE.sub("", main)
    if concluding and not re.search(r"\d", sentence):  # so there are twelve apples
        sentence = _NUMERAL.sub(lambda m: m[0] if m[0] == "one" else str(NUMERALS[m[1].lower()]), sentence)
    rest = _RATHER_THAN.search(sentence)
    said = _unpunctuated(sentence[: rest.start()] if rest else sentence)
    whole, said = said, _CONSEQUENCE.split(_REASON.split(said)[0])[-1].lstrip(", ")
    if re.search(r"[\d=]", said) and is_readable(said):
        math = _MATH.fullmatch(said)
        return _formula(math) if math else said
    values = [match.end() for match in _SAYS_VALUE.finditer(said)]
    if _SUPPOSED.search(said):
        return None
    if len(values) > 1 and _BESIDE.search(said, values[-2], values[-1]):  # the larger is 18 and the smaller is 7
        pair = said[match.end() :].strip() if (match := _SAYS.search(said)) else ""
        return pair if is_readable(pair) and not _NOT_ALONE.search(said[: match.end()] if match else "") else None
    return within_sentence(said, concluding or said != whole)


def last_number(text: str) -> str | None:
    """The last number, not denied and no bound: too little to accept a completion, enough not to call it wrong."""
    text = text[-TAIL:]
    numbers = list(_NUMBER.finditer(text, max(0, len(text) - 100))) or list(_NUMBER.finditer(text))
    if not numbers:
        return None
    before = text[max(0, numbers[-1].start() - 60) : numbers[-1].start()].rpartition("\n")[2]
    changed = text.startswith("?", numbers[-1].end()) or _CHANGES.match(text, numbers[-1].end())
    joined = re.search(r"\d\s*(?:,|and|or)\s*$", before)
    return None if changed or joined or _NOT_ALONE.search(before) else _unpunctuated(numbers[-1].group().strip())


def says(text: str, answer: str) -> bool:
    """Whether the last line has a word that is the reference answer."""
    word = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", answer).strip()
    line = text[-TAIL:].rstrip().rpartition("\n")[2]
    denied = re.search(r"\b(?:not|neither|nor|no|but|only|never|or)\b|n't", line)
    if len(word) < 3 or not word.isalpha() or len(line.split()) < 4 or denied:
        return False
    return re.search(rf"\b{word}\b", line, re.IGNORECASE) is not None
