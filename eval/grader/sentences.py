r"""Finds the answer that a text states in words: "the answer is 5", "so the area is 12", "9 * 2 = 18. She makes $18."

    announced_answer("Adding both gives 12. The answer is 12.")  ->  "12"

In a sentence, each formula, point and date is replaced by one character. These and numbers are the values of the
sentence. A value counts if the sentence claims it: not "at least 5", not "Step 5", not "if x were 5", and not "attained
at x = 5" beside another value. `extract.py` has the order of the rules.
"""

import re
from collections.abc import Iterator
from functools import cached_property

from eval.grader.doubt import doubted, supposed, taken_back
from eval.grader.nodes import MAX_LENGTH, NUMERALS
from eval.grader.prose import ATOM, FORMULA, HIDDEN, NUMBER, NUMERAL, VALUE, WORDS, unpunctuated
from eval.grader.reader import is_readable

LINE = 400  # characters of a line or sentence that is searched as one

# -- what is planned or denied

_TO_DO = re.compile(  # if n = 5, now we add 5, it remains to check n = 5
    r"\bif\b|^\W*(?:where|given)\b[^,]*$|, find\b|\b(?:have|need|needs|remains?|want|going|step is) to"
    r" (?:add|subtract|multiply|divide|check|verify|test|consider|compute|find|calculate|use|try|solve|determine)\b"
    r"|(?:^|\bwe |^\w+,? )(?:now |then |next |still )?(?:add|subtract|multiply|divide|consider|continue|proceed"
    r"|try|let|plug|compute|use|substitute|set|choose|take|check|verify)\b",
    re.IGNORECASE,
)
_DENIED = re.compile(  # The answer is not 6
    r"\s*(?:\w+ly )?(?:not|never|neither|no (?:longer|more)|anything but|incorrect|wrong|unlikely|unknown)\b|\s*不",
    re.I,
)


# -- "the answer is"

# The last one counts. In other languages as MGSM's prompts ask for it (Shi et al. 2022)
ANNOUNCED = re.compile(
    "(?:"
    r"answers?[*\"']*(?:\s*\([^()\n]{1,30}\))?\s*(?:is|are|:|：|=|(?:turns|comes|works) out (?:to be|to|as))"
    r"|(?:has|gives?|get)\s+the\s+answer(?=\s+[-$\\\d])|\bI\s+answer(?=\s+[-$\\\d])"
    r"|answer\s*(?:should|must|will)\s*be|\banswer\**[ \t]*\n(?=\s*\S)"
    r"|final\s+result\s*(?:is|:)|(?:correct|right|best)\s+(?:choice|option)\s+is"
    r"|solutions?\s+(?:is|are)(?=\s*[$\\\d-])"
    r"|答案】?\s*(?:是|为|：|:|(?=\s*[$\\\dA-J-]))|故?应?[选選](?:择|項|项)?\s*[：:]?\s*(?=[（(]?[A-J](?![a-zA-Z]))"
    r"|(?:respuesta(?: final)?\s*(?:es|:)|réponse(?: finale)?\s*(?:est|:)|antwort\s*(?:ist|lautet|:)"
    r"|res?posta(?: final)?\s*(?:é|è|:)|ответ|jibu(?: ni)?|答え\s*は?|정답은|คำตอบ(?:คือ)?|উত্তর|సమాధానం)"
    r"(?=[\s:：—-]*[$\\\d])"
    ")"
    r"[\s:：—]*(?:(?:therefore|thus|simply|just|only|option|choice|approximately|about|roughly|exactly|actually"
    r"|equal\s+to"
    r"|clearly|then|always|indeed|obviously|given\s+by|found\s+to\s+be|the\s+(?:number|value))\s+)*"
    r"[：:]?\s*(?:\*\*)?\s*",
    re.IGNORECASE,
)
# One of them is in every announcement: looking for them first is ten times as fast
_ANNOUNCING = tuple("nswer NSWER result olution hoice ption espuesta ntwort posta ibu".split())
_ELSEWHERE = tuple("案 选 選 éponse твет 答え 정답 คำตอบ উত্তর సమాధానం".split())


def may_announce(text: str) -> bool:
    """Whether a text contains a word that every announcement contains."""
    return any(word in text for word in (_ANNOUNCING if text.isascii() else _ANNOUNCING + _ELSEWHERE))


def answered(text: str) -> re.Match[str] | None:
    """Find the last announcement that is not denied."""
    found = ANNOUNCED.finditer(text) if may_announce(text) else ()
    *_, last = [None, *(m for m in found if not _DENIED.match(text, m.end()) and not doubted(text, m.start()))]
    return last


_TAKEN_BACK = re.compile(  # The answer is 7 - no, sorry, it should be 8
    r"(?<=[—–.,?!-] )(?:oh )?no, |\b(?:sorry|oops|wait|hmm|scratch that|hold on|I mean|correction|I disagree"
    r"|on second thought|(?:yet|but) (?:it is(?: actually| really)?|I (?:get|got|find|found))"
    r"|(?:th(?:is|at)|it)(?: i|')s wrong)\b",
    re.I,
)
_RATHER_THAN = re.compile(r"(?<=\d),? (?:and )?(?:not|rather than|instead of|as opposed to) [^.\n]{1,60}[.\s]*\Z")
_OPTION = re.compile(r"\(?[A-J][.):]\s")


def announced_answer(text: str) -> str | None:
    """The answer that the last announcement states; empty if it is refuted, None if there is no announcement."""
    announcement = answered(text)
    if announcement is None:
        return None
    rest = text[announcement.end() :].lstrip()
    line = rest.partition("\n")[0]
    if '"' in announcement.group():  # {"answer": 5}
        line = re.sub(r"(?:\"|(?<=\d))\s*\}\s*\Z", "", line)
    line = _RATHER_THAN.sub("", line)
    if correction := _TAKEN_BACK.search(line):
        return within_sentence(line[correction.end() :]) or ""
    value = NUMBER.match(rest) or FORMULA.match(rest)
    if value and taken_back(rest, value.end()):
        return ""
    block = FORMULA.match(rest)  # may go over several lines
    if block and _ends(rest[block.end() :].partition("\n")[0]):
        return inside(block.group())
    return _tidy(line)


def inside(text: str) -> str:
    """Remove the math delimiters around a text."""
    formula = FORMULA.fullmatch(text)
    text = next(filter(None, formula.groups())) if formula else text
    return " ".join(text.split()).rstrip(" .,")[: MAX_LENGTH + 1]


def _tidy(said: str) -> str | None:
    """Clean the text after "the answer is": no Markdown, no full stop, nothing of the sentence after the answer."""
    said = said.strip().strip('*`"“”').strip()
    whole = unpunctuated(said)
    if whole and (is_readable(whole) or re.match(r"(?:yes|no)[,:;.!]\s", whole, re.IGNORECASE)):
        return whole
    sentence = unpunctuated(_SENTENCE_END.split(whole)[0])
    if _OPTION.match(said):
        return sentence
    if re.search(r"\botherwise\b", said):
        return said
    said = unpunctuated(_CONTINUES.split(said)[0])[: MAX_LENGTH + 1]
    return said if is_readable(said) or said.endswith(" only") else within_sentence(sentence) or said or None


# -- the sentences that may conclude

_SENTENCE_END = re.compile(
    r"(?<=[\w)}%$\]])(?<!i\.e)(?<!e\.g)[.!?。](?:\s+(?=[^a-z\s])|\s*$)"
)  # the volume is 120. That is all.
# Words with which a sentence continues behind its answer
_CONTINUES = re.compile(
    r",?\s+(?:or\s+(?:about|approximately|roughly)|i\.e)\b"
    r"|(?<=[\w)}%*$\]\"'])[.;!。；](?:\s|$)|,\s+(?=[a-z]{2,}\b)(?!and |or |pi\b)"
    r"|\s+(?=(?:as|by(?!\s+\d)|since|because|so|which|where|when|for|if|using|after|from|with|that|upon|given|among)\s)"
    r"|\s[—–]\s|\s-\s(?=[a-zA-Z]{2})|\*\*|(?<=\d)\s+(?=\()|\s+(?=\((?:not\b|since\b|because\b|as\b|or\b|≈|\$?\\approx))"
)


def _ends(behind: str) -> bool:
    """Whether a text begins with something that ends an answer."""
    return not behind.strip(" .,;:!?)。；") or _CONTINUES.match(behind) is not None


# Therefore, the area is 12
_CONCLUDING = re.compile(
    r"\W*(?:\w[\w ]{0,20}\]\s*)?(?:(?:and |so |then )?(?:so|thus|hence|therefore|consequently|accordingly"
    r"|in (?:conclusion|summary|total|all)|(?:that|this) (?:means|implies|shows)(?: that)?|finally|altogether"
    r"|as a result|it follows that|overall|conclusion)\b"
    r"|所以|因此|综上(?:所述)?|故|答|结论|总之)[,:，：]?\s*",
    re.IGNORECASE,
)
_MARKS = re.compile(r"^[#>*\s]+|\*+$|</?[a-z]+>")  # ### 25, > 12, <b>12</b>
# 3 hours, so its speed is 60: what stands before says how
CONSEQUENCE = re.compile(
    r"[,;，]?\s+(?:so|thus|hence|therefore|(?<!after )(?<!before )(?<!by )giving|which (?:means|gives)(?: us)?|meaning"
    r"|that is(?=,)"
    r"|(?:and )?we (?:conclude|find|get|obtain|see|deduce)"
    r"|(?:which )?(?:we )?round\w*(?: up| down)? to)\b(?: that\b)?|,? i\.e\.,?|，(?:所以|因此|故|则)"
)
_REASON = re.compile(
    r"(?<=.),?\s+\(?(?:since|because|or (?:about|approximately|roughly)"
    r"|as(?! (?:many|much|well|large|long|far|high|tall|old|few|claimed|required|desired|expected|shown|an?)\b))\b"
)  # 25, since 5 * 5 = 25
_UNFINISHED = re.compile(
    r"(?:[,:;=+*/(，：；-]|\\(?:[\[(]|boxed\{?|text\{?|d?frac|left)?|\b(?:to|the|of|and|or|we|an?|is|are|that|with|for|by|in|as|then|get"
    r"|would|will|can|could|should|has|have|had|there|this|if|so|from|at|on|each|every|which|where|when|because|since"
    r"|but|than|not|also))\s*\Z"
)
_ASIDE = re.compile(  # 160 minutes (2 hours and 40 minutes), 4 (the diameter being 8)
    r"(?<=[a-z]) \((?=[^()=]*[a-z]{2})[^()=\\]*\)"
    rf"|(?<=[\d{HIDDEN}]) \((?!mod|or |and |base|in base|if )[a-z][^()\\]*\)"
)
# A phrase that says when, where or of what, and no value of its own: attained at x = 5, for 3 cars, out of 20
_SIDE = re.compile(
    r",?\s+\(?(?:attained|achieved|reached|obtained|occurring|when|where|while|iff|for|(?<!left )(?<!up )with"
    r"|to (?!get|make|give|find)[a-z]+ (?:the|an?|all|each|his|her|their|its)\b|after|before|below|above|under"
    r"|(?<!\d )out of|of which|in which|at|upon|among|(?<!the )(?<!a )given|having|until)\b"
    r"(?:(?!\b(?:is|are|was|were|equals?|gives?|total|sum)\b)[^,;=(]|(?<=[a-z])\s*=\s*)*?"
    rf"(?:\d|[{HIDDEN}])[^,;=\d]*?(?=[,;]|[).]*$|\s+(?:is|are|was|were|equals?|gives?)\b)"
    r"|, (?:attained|achieved|reached|obtained|occurring|where)\b.*$|(?<=s), namely\b.*$"
)
_REMARK_BEHIND = re.compile(  # , given that the height was 6; , the roots being 1 and 4; , 12 more than the bus
    r"(?:, (?:given|whose|(?:the|its|their)(?: \w+){1,5} being|which(?! (?:means|makes|gives|equals|leaves|leads|yields"
    r"|simplifies|implies|results|comes|totals?|amounts|reduces|adds|sums|is (?:the|our|what|why)))(?=[^,;]*$)|taking"
    r"|using"
    r"|assuming|letting|setting|counting|including|excluding|ignoring|neglecting|remembering|noting|recalling|knowing"
    r"|starting|considering"
    r"|beating|exceeding|compared|unlike|just|not|up from|down from|(?:i\.e\. )?(?:well|long|just|shortly)"
    r" (?:above|below|before|after|under|over)|even though|(?:the|a) (?:\w+ ){1,4}(?:for|of|at) which"
    r"|\d[^,]{0,20} of which|(?:i\.e\. )?[\d.]+ \w+(?: \w+)? (?:more|less|fewer) than)\b|; (?:note|recall|observe"
    r"|remember)\b|\s(?:when|if|while|provided) (?:its|the|his|her|their|it|[a-z]) (?:\w+ )?(?:is|are|equals)\b).*$"
)


_IN_BRACKETS = re.compile(r"\s*\([A-Z][^()]* [^()]*\)?\s*")  # (Each side is 7 m.)


def concluding(prose: str) -> list["Sentence"]:
    """The sentences that may conclude a text: the last one, and those of the five before it that begin with "so". None
    if the text is cut off.
    """
    last = _MARKS.sub("", prose.rpartition("\n")[2]).strip()
    point = re.fullmatch(r"(\d{1,2})[.)]?", last)
    if _UNFINISHED.search(prose, max(0, len(prose) - 20)) or (
        point and re.search(rf"\n\s*{int(point[1]) - 1}[.)] [^\n]*\n+\s*\d+[.)]?\Z", prose)
    ):
        return []  # also with the number of a point that was not written
    lines = [_MARKS.sub("", line).strip() for line in prose[-5 * LINE :].split("\n") if line.strip()]
    if len(lines) > 1 and _OPTION.match(lines[-1]) and _OPTION.match(lines[-2]):
        return []  # the options again
    ended = (_SENTENCE_END.sub(lambda m: "?\n" if m[0][0] == "?" else "\n", line) for line in lines)
    texts = [text for line in ended for text in line.split("\n") if text.strip() and not _IN_BRACKETS.fullmatch(text)]
    worked = sum(bool(NUMBER.search(text)) for text in texts[:-1]) > 1  # the last one ends a calculation
    found = [Sentence(text, prose, is_last=not i, concludes=worked and not i) for i, text in enumerate(texts[:-7:-1])]
    return [sentence for sentence in found if sentence.begun or sentence.is_last]


_BUT_NOT = re.compile(
    r"\bbut\b.*(?:\bnot\b|n't\b)|\bas (?:my|a|an|our) \w+ (?:until|for now)|\bso far\b", re.IGNORECASE
)


def _hides_a_claim(text: str, side: re.Match[str]) -> bool:
    """Whether a clause makes a second claim that ends in a side phrase: "it is down 8% and now trades at $46"."""
    before = text[: side.start()]
    value = VALUE.search(before)
    if value is None or re.match(r"\s+(?:is|are|was|were|equals?|gives?)\b", text[side.end() :]):
        return False
    joined = re.search(r"\b(?:and|but|while)\b|;", before[value.end() :])
    return (
        joined is not None
        or re.search(r"\b(?:we|he|she|they|you|I) (?:need|get|have|find|obtain|use|take|pay|see)\b", side[0])
        is not None
    )


class Sentence:
    """A sentence and its main clause: without reasons, asides and side phrases, and with its formulas hidden."""

    def __init__(self, text: str, prose: str = "", *, is_last: bool = True, concludes: bool = True) -> None:
        self.text = text = re.sub(rf"[{HIDDEN}]", "", text)
        self.prose, self.is_last = prose, is_last
        self.begun = _CONCLUDING.match(text)
        total = re.search(r"\b(?:in total|altogether|in all)\b", text)
        self.mixed = False  # whether a side phrase may hold a claim, once the clause is known
        self.statement = text  # without reasons and asides, once the clause is known
        self.concludes = concludes or bool(self.begun or total)  # something, so that its only value is the answer

    @property
    def states_something_else(self) -> bool:
        """Whether a sentence that begins with "so" contains a number other than the answer."""
        return self.begun is not None and NUMBER.search(self.text) is not None

    @cached_property
    def formulas(self) -> list[str]:
        """The formulas that are hidden in the clause."""
        return [match.group() for match in ATOM.finditer(self.text)] if len(self.text) <= 4 * MAX_LENGTH else []

    @cached_property
    def clause(self) -> str:
        """The main clause, with each formula and point as one character."""
        hidden = map(chr, range(0xE000, 0xF8FF))
        text = ATOM.sub(lambda _: next(hidden), self.text) if self.formulas else self.text
        text = unpunctuated(_CONCLUDING.sub("", text, count=1) if self.begun else text)
        if self.concludes and not VALUE.search(text):  # so there are twelve apples
            text = re.sub(rf"\b{NUMERAL}\b(?!-)", lambda m: m[0] if m[0] == "one" else str(NUMERALS[m[0]]), text)
        main = re.sub(r"^(?:Since|Because|As|[A-Z]\w+ing)\b[^,=]*, (?:which means )?(?=[a-zA-Z])", "", text)
        whole = unpunctuated(_RATHER_THAN.sub("", _ASIDE.sub("", main)))
        self.statement = re.split(r",?\s+(?:since|because)\b", whole)[0]
        said = CONSEQUENCE.split(_REASON.split(whole)[0])[-1].lstrip(", ")
        short = _REMARK_BEHIND.sub("", said) if len(said) <= LINE else said
        shorter = _SIDE.sub("", short) if len(said) <= LINE else said
        side = next((text for text in (shorter, short) if VALUE.search(text)), said)
        self.concludes = self.concludes or main != text or side != whole
        self.mixed = side is shorter and any(_hides_a_claim(short, m) for m in _SIDE.finditer(short))
        return side

    def shown(self, text: str) -> str:
        """A part of the clause, with the hidden formulas restored."""
        return re.sub(rf"[{HIDDEN}]", lambda m: self.formulas[ord(m.group()) - 0xE000], text)

    @cached_property
    def claims(self) -> bool:
        """Whether the clause claims something: it has more than one word, neither supposes, doubts nor plans, and
        announces nothing that is denied.
        """
        denied = "answer" in self.clause and ANNOUNCED.search(self.clause) is not None
        supposes = (
            denied
            or supposed(self.clause)
            or supposed(self.statement)
            or _TO_DO.search(self.clause)
            or _BUT_NOT.search(self.text)
        )
        return not supposes and WORDS.search(self.clause) is not None

    @cached_property
    def states(self) -> bool:
        """Whether the clause makes exactly one claim."""
        values = [match.end() for match in _SAYS_VALUE.finditer(self.clause)]
        return (
            self.claims
            and not self.mixed
            and not (len(values) > 1 and _BESIDE.search(self.clause, values[-2], values[-1]))
        )

    def stands(self, start: int) -> bool:
        """Whether no text before a position in the clause denies or bounds the value at that position."""
        return not _NOT_ALONE.search(self.clause, max(0, start - 60), start)


# -- what a sentence states

# The volume of the cone is 120
_SAYS = re.compile(
    r"\b(?:is|are|be|equals?|equal to|(?:gives?|leaves?|makes?)(?: (?:us|him|her|them))?|gets?|obtain|have|has|had"
    r"|[Tt]hat's|[Ii]t's|was|were|total of|on(?= (?:an? )?\w+day\b))\b\s*:?|(?<!\d)[:：]|[=≈]|为|是|得到?"
)
_NAMES = re.compile(r"(?:\b(?:is|are|be|was|were|on)|[:：=]|为|是)\s*$")  # what stands behind may be words
# the larger one is 18 and the smaller one is 7
_SAYS_VALUE = re.compile(
    rf"(?:\b(?:is|are|was|were|has|have|had|gets?|takes?)\b|[=为是])\s*(?:\w+ly\s+)?(?=[-\d{HIDDEN}])"
)
_BESIDE = re.compile(r"\b(?:and|while|whereas|but)\b|[;；，而]")
# Before an answer: it is not that, or not that alone
_NOT_ALONE = re.compile(
    r"(?:\b(?:not|cannot|neither|nor|never|than|least|most|base|either|between|times|plus|minus|maybe|perhaps|depends"
    r"|except|but|when|could be|m(?:ight|ay) be|(?<!add )(?<!adds )up to|exceed\w*"
    r"|(?:root|square|cube|half|third|quarter|none|all|factor|multiple|divisors?|power|digits?) of"
    r"|divisible by|close to|if|suppose)\b|n't\b|[不非若设令当]|大于|小于|超过|至[少多])"
    r"(?:(?!\b(?:is|are|was|were|equals)\b|[=:])[^.\d]){0,24}$"
    r"|\b(?:or|with|where|for|when|using|at|if|as|by|since|because|let|letting|setting|try|in|substituting|plugging"
    r"|taking|choosing)\s+"
    r"(?:\$?[a-z]\s*=\s*[\d.]+\$?,?(?: and)? )*\$?[a-z](?:_\w)?\s*=\s*$"
    r"|[若设令当取]\s*\$?[a-z]\s*[=为]\s*$|\bwho (?:is|was|has|had)\s*$",
    re.IGNORECASE,
)
# A number that names a part of the text: Step 25, Figure 3, equation (5), 步骤3
_NUMBERED = re.compile(
    r"(?:\b(?:steps?|cases?|fig(?:ure|\.)|tables?|eq(?:uations?|n?\.)|theorem|lemma|pages?|chapter|section|problem"
    r"|question"
    r"|line|part|method|examples?|round|exercise|rows?|columns?|note|formula|option)|[第步骤图表题式])\s*[(#]*\s*$",
    re.IGNORECASE,
)
_CHANGES = re.compile(  # 5 less than that, 5\text{ at most}
    r"(?:\\text|\W)*(?:at\s+(?:most|least)|times(?!\W*$|\s+(?:from|in|an?|per|each|every|for|on|during)\b)"
    r"|plus|minus|less|fewer|more than|or|versus|vs|ones|tens|as the answer"
    r"|tenths|hundredths|(?:is|are|was)(?:n't|\s+(?:not|wrong|incorrect|impossible|false|too|ruled))|(?:do|does|did"
    r"|would)(?:n't|\s+not)"
    r"|can't|cannot|and\s+an?|\w+ to (?:consider|check|examine|try|solve|test))\b"
)


def within_sentence(said: str) -> str | None:
    """The answer that follows "the answer is" within a sentence."""
    sentence = Sentence(said)
    return _says(sentence) or _only_value(sentence) if WORDS.search(sentence.clause) else None


def formula(sentence: Sentence) -> str | None:
    """The whole sentence, if it is a formula."""
    said = sentence.shown(sentence.clause)
    return inside(said) if re.search(r"[\d=]", said) and is_readable(said) else None


def said(sentence: Sentence) -> str | None:
    """The value or pair that follows "is" or "=" in the sentence."""
    clause, first = sentence.clause, _SAYS.search(sentence.clause)
    if sentence.states:
        return _says(sentence)
    if not sentence.claims or not first or not sentence.stands(first.end()):
        return None
    pair = sentence.shown(clause[first.end() :]).strip()
    return pair if is_readable(pair) else None


def _says(sentence: Sentence) -> str | None:
    named = not re.search(r"\d", sentence.shown(sentence.clause))  # then words may be the answer
    for start, found in _candidates(sentence):
        text = re.sub(rf"^(?:on |in )?(?:an? )?(?=[A-Z{HIDDEN}])", "", unpunctuated(found).lstrip("*: "))
        text = inside(sentence.shown(text))
        says = text.startswith("no ") or _NAMES.search(sentence.clause, 0, start)
        words = 3 if (named or text.endswith("day")) and says else 0
        if text and sentence.stands(start) and is_readable(text, words):
            return text
    return None


def _candidates(sentence: Sentence) -> Iterator[tuple[int, str]]:
    """The values of a sentence that may be the answer, with their positions, the most likely first."""
    said, says = sentence.clause, list(_SAYS.finditer(sentence.clause))
    for match in reversed(says[-4:]):  # the solutions are x = -2, y = 3; this gives x + y - 2 = 0
        if match.group() != "=":
            yield match.end(), said[match.end() :]
    *_, last = [None, *re.finditer(rf"[{HIDDEN}]", said)]
    if last and not (says and says[-1].start() >= last.end() and VALUE.search(said, says[-1].end())):
        behind = said[last.end() :]
        if not _CHANGES.match(behind) and (_ends(behind) or (len(behind) <= 30 and (says or sentence.concludes))):
            yield last.start(), said[last.start() :]
            yield last.start(), said[last.start() : last.end()]
    for match in reversed(says[-3:]):
        rest = said[match.end() :].lstrip()
        yield match.end(), rest
        yield match.end(), _CONTINUES.split(rest)[0]
        number = NUMBER.match(rest)
        if number and not VALUE.search(rest, number.end()) and not _CHANGES.match(rest, number.end()):
            yield match.end(), number.group()


# Then add both costs: $33 + $99 = $132 in total.
_CALCULATION = re.compile(
    r"\d[a-z%$/.\s]{0,30}[-–+*/x×÷−]\s*[\d$(.][^=\n]{0,200}=\s*\**\\?\$?\s*(-?\d[\d,]*(?:\.\d+)?%?)"
    r"(?![\d/^*×√(]|\s?\\?[πpxyni](?![a-hj-z])| (?:or|vs|versus)\b)"
    r"(?!.{0,80}\b(?:of (?:the )?\d|i\.e|is|are|was|were|means|so|gives?|makes?)\b)[^=<>]{0,80}\Z"
)
_TRIED = re.compile(  # Let us try n = 5: 5 * 5 = 25
    r"\b(?:let|try|check|verif\w+|at (?:least|most)|not|continue|proceed|were\b.*\bwould)\b|n't\b", re.IGNORECASE
)


def calculated(sentence: Sentence) -> str | None:
    """The result of the calculation at the end of the last sentence."""
    found = _CALCULATION.search(sentence.text) if sentence.is_last else None
    return found[1] if found and not supposed(sentence.text) and not _TRIED.search(sentence.text) else None


def value(sentence: Sentence) -> str | None:
    """The only value of a sentence that concludes."""
    return _only_value(sentence) if sentence.states and sentence.concludes else None


def _only_value(sentence: Sentence) -> str | None:
    values = list(VALUE.finditer(sentence.clause))
    money = [number for number in values if "$" in number.group()]
    values = money if len(money) == 1 else values  # she spends $70 on 5 baskets
    if len(values) != 1 or not sentence.stands(values[0].start()):
        return None
    start, end = values[0].span()
    if _NUMBERED.search(sentence.clause, 0, start) or _CHANGES.match(sentence.clause, end):
        return None
    text = inside(sentence.shown(values[0].group().strip()))
    return text if is_readable(text) else None


# 9 * 2 = 18. She makes $18 a day.
_RESULT = re.compile(
    r"(?<![-+*/<>!=.])\s*[=≈]\s*\**\\?\$?\s*(-?\d[\d,]*(?:\.\d+)?)"
    r"(?![\d.,]*\s*(?:[-+*/×÷=^√(]|\\?[πpxyni](?![a-hj-z])))"
)


def repeated(sentence: Sentence) -> str | None:
    """The number in the last sentence that equals the result of the last calculation."""
    if not sentence.is_last or supposed(sentence.text) or _TO_DO.search(sentence.text):
        return None
    text, at = sentence.text, sentence.prose.rfind(sentence.text)
    results = [_plain(result) for result in _RESULT.findall(sentence.prose, max(0, at - LINE), at)]
    within = list(_RESULT.finditer(text))
    if within and re.fullmatch(r"[\s.*$\\)a-z]*", text[within[-1].end() :]):
        results.append(_plain(within[-1][1]))
    *_, same = [None, *(n for n in NUMBER.finditer(text) if results and _plain(n.group()) == results[-1])]
    if same is None or _CHANGES.match(text, same.end()) or _SAYS.search(text, same.end()):
        return None
    return None if any(p.search(text, 0, same.start()) for p in (_NOT_ALONE, _NUMBERED)) else results[-1]


def _plain(number: str) -> str:
    return number.strip(" $").replace(",", "").rstrip(".")


# -- what a completion without an answer may mean


def last_number(text: str) -> str | None:
    """The last number, if it is neither denied nor a bound. If it equals the reference, the completion is unsure
    instead of wrong.
    """
    *_, last = [None, *NUMBER.finditer(text, max(0, len(text) - LINE))]
    if last is None or text.startswith("?", last.end()) or _CHANGES.match(text, last.end()):
        return None
    before = text[max(0, last.start() - 60) : last.start()].rpartition("\n")[2]
    joined = re.search(r"\d\s*(?:,|and|or)\s*$", before)
    return None if joined or _NOT_ALONE.search(before) else unpunctuated(last.group().strip())
