"""What a completion says its answer is, in words: "the answer is 5", "so the area is 12", "9 * 2 = 18. She makes $18."

    announced("Adding both gives 12. The answer is 12.")  ->  "12"

A value counts where the sentence says it of nothing else: not "at least 5", not "Step 5", not "if x were 5", and not
"attained at x = 5" beside another value. `extract.py` has the order of the rules.
"""

import re
from collections.abc import Callable, Iterator
from functools import cached_property

from eval.grader.nodes import MAX_LENGTH, NUMERALS
from eval.grader.reader import is_readable

TAIL = 20_000  # characters of a completion's end in which an unmarked answer is looked for
LINE = 400  # characters of a line or sentence that is searched as one

# $5$, \(5\), \[5\]
_MATH = re.compile(r"(?<!\\)\$\$?((?:\\\$|[^$])+?)(?<!\\)\$\$?|\\\((.{1,2000}?)\\\)|\\\[(.{1,2000}?)\\\]", re.DOTALL)
# Possessive quantifiers: a run of digits is read once, however long
_NUMBER = re.compile(
    r"(?<![a-zA-Z0-9_.,^/{\\:])(?<!\d[-–])[-−+]?\s?\$?(?:\d{1,3}(?: \d{3})+(?!\d)|\d(?:,?\d)*+\.?\d*+|\.\d++)"
    r"(?:/\d++|:\d++(?::\d++)*(?:\s?[ap]\.?m\b)?)?(?:\\?%|e[-+]?\d++)?(?:\s+(?:thousand|million|billion|trillion))?"
    r"(?![-–]\d)(?:(?![a-zA-Z0-9_])|(?=(?:[ckm]?m[²³]|[ckm]m|kg|mg|ml|mL|km/h)(?![a-zA-Z0-9_])))"
)
_NUMERAL = re.compile(rf"(?<![\w-])({'|'.join(NUMERALS)})(?![\w-])", re.IGNORECASE)  # thirteen


# -- the text without what is no prose


def plain_prose(text: str) -> str:
    """A text's end without code, Markdown, what is denied ("not 6 but 8") and what is said behind the answer."""
    text = _sensible(text[-TAIL:])
    text = _CODE.sub("\n", text) if "```" in text else text
    text = re.sub(r"<<[^<>\n]{1,200}>>", "", text) if "<<" in text else text  # GSM8K's 3 + 5 = <<3+5=8>>8
    text = _NOT_BUT.sub("", text) if "but" in text or "不是" in text else text
    text = re.sub(r"</?(?:b|i|u|em|strong)>", "", text) if "</" in text else text
    text = (_BOLD.sub(r"\2", text) if re.search(r"[*_`]", text) else text).rstrip()
    text = _TWICE.sub(r"\1", text) if re.search(r"[a-z] \(\d", text) else text
    behind = _BEHIND_ALL.search(text, max(0, len(text) - 160))
    return text[: behind.start()] if behind else text


def _sensible(text: str) -> str:
    """A text up to where it begins to mix three scripts besides the Latin one: a model that has lost its way."""
    seen: dict[int, int] = {}
    for match in () if text.isascii() else _SCRIPT.finditer(text):
        seen[match.lastindex or 0] = match.start()
        near = [place for place in seen.values() if place > match.start() - LINE]
        if len(near) > 2:
            return text[: min(near)].rpartition("\n\n" if "\n\n" in text[: min(near)] else " ")[0]
    return text


_SCRIPT = re.compile("([\u0400-\u04ff])|([\u0590-\u06ff])|([\u0e00-\u0e7f])|([\uac00-\ud7af])|([\u3040-\u9fff])")
_WORD = rf"(?:{'|'.join(NUMERALS)})"
_TWICE = re.compile(rf"\b{_WORD}(?:[- ]{_WORD})* \((\d[\d,]*)\)", re.IGNORECASE)  # seventy-five (75)
_CODE = re.compile(
    r"```(?!(?:text|tex|latex|math|json|output)?\s)\w.*?(?:```|\Z)|```\w*[ \t]*$", re.DOTALL | re.MULTILINE
)
_NOT_BUT = re.compile(
    r"\bnot [-\d$\\(][^.\n]{0,60}?\bbut (?:rather )?(?=[-\d$\\(])|不是[^。\n]{1,30}?而(?=是)"
)  # not 6 but 8
_BOLD = re.compile(
    r"(?<![\w*)}`])(\*{1,3}|__?|`)(?=[^\s*_])([^*`\n]+?)(?<=[^\s*_])\1(?![\w(*])"
)  # **25%** of them, not 2**3
# 9 is the final answer. So $x = 9$. $\\blacksquare$
_BEHIND_ALL = re.compile(
    r"(?:(?:,[ \t]+which)?[ \t]+is[ \t]+(?:the|our|my)[ \t]+(?:final |correct |right )?(?:answer|result|solution)\b"
    r"|[ \t]*\$?(?:\\blacksquare|\\square|\\Box|\\qed|QED|[∎■□✓✔✅])\$?"
    r"|\s+\((?:If|This|Or|In|That|Note)\b[^()\n]{0,120}\)"
    r"|(?:\s+(?:(?:I hope|Hope|Let me know|Feel free|Please (?:let|feel)|If you (?:have|need|want|would)|Would you like"
    r"|Happy to)\b[^.!?\n]{0,120}|Nice|Great|Done|Perfect)[.!?]*)+|\n\W*(?i:confidence|certainty)\W*\d+\s*%?)[^\w$]*\Z"
)


def unpunctuated(text: str) -> str:
    """Without the punctuation that ends a sentence; three dots belong to a list."""
    text = re.sub(r"(?<=[$*])!+\s*\Z|(?<=[\d$)])\s*(?:です|입니다)[.。]?\s*\Z", "", text)
    return text if text.rstrip().endswith("...") else text.rstrip('.,;:*" \t\r\n。；')


def without_lead(text: str) -> str:
    """Without a "so" or "it's" before it, and without the full stop."""
    return _LEAD.sub("", unpunctuated(text.strip().strip("*").strip()))


_LEAD = re.compile(  # So 42; it's 42; → 42
    r"^(?:(?:so|thus|hence|therefore|then|and)\b[,:]?\s+)?(?:(?:I think |it must be that )?(?:it|that|this)"
    r"(?:'s| is| makes| gives| equals)\s+|[=→⇒⟹∴]\s*|\\(?:therefore|implies|Rightarrow|to)\s+)?",
    re.IGNORECASE,
)


# -- what is denied, doubted or supposed

_CLAUSE_BEGINS = re.compile(
    r"[.,;:!?\n，。；](?!\d)|\b(?:so|hence|thus|therefore|and|but|then|means|because)\b", re.IGNORECASE
)
_DOUBT = re.compile(  # I do not believe (that) the answer is 7; if the answer is 7; the expected answer is 7
    r"\b(?:if|suppos\w+|assum\w+|whether|(?<!no )(?<!without )doubt\w*|impossible|unlikely|perhaps|maybe|guess that"
    r"|myth|not|cannot|never|hardly|neither|nobody|no (?:one|proof|evidence|reason|way|means)|mistake\w*|careless"
    r"|tempt\w+|wrong to|false that|refuse\w*|disagree|deny|claim(?:s|ed)|(?:might|may|could|would)"
    r" (?:think|say|claim|conclude)"
    r"|(?:they|some|someone|people|others|he|she|key|\w*book|reference|friend)(?: \w+)? (?:says?|thinks?|believes?)"
    r")\b|n't\b|若|如果|假设"
    r"|\b(?:wrong|incorrect|false|first|initial|expected|reference|naive|given|claimed|stated)\s*$",
    re.IGNORECASE,
)
_DENIED = re.compile(  # The answer is not 6
    r"\s*(?:\w+ly )?(?:not|never|neither|no (?:longer|more)|anything but|incorrect|wrong|unlikely|unknown)\b|\s*不",
    re.I,
)
_REFUTED = re.compile(  # \boxed{7} is wrong; 7, which contradicts the hypothesis; 7: it fails; 7? No.
    r"[\s$*.)\]\\]*(?:\?+\s*(?:no|not|never|wrong)\b"
    r"|(?:[^.!?\n\d\\]{0,50}?[,;:.]?\s*\b(?:which|but|this|that|it|they|and)\b\s*(?:that|it|this)?)?\s*"
    r"(?:(?:is|was) my (?:first|initial)|(?:is|was|are|must be|seems)(?: \w+ly)? ?(?:wrong|incorrect|mistaken|false"
    r"|impossible|absurd|invalid|refuted|not (?:correct|right|true|possible|valid|the|an?|our))\b|(?:is|was)n't\b"
    r"|contradict\w*|fail(?:s|ed)\b|cannot\b|can't\b|violates|(?:does|do|did)(?:n't| not)\s+(?:satisf|work|fit|hold)))",
    re.IGNORECASE,
)


def doubted(text: str, at: int) -> bool:
    """Whether the clause before a place denies, doubts or supposes what is said there."""
    before = text[max(0, at - 120) : at]
    *_, begins = [0, *(match.end() for match in _CLAUSE_BEGINS.finditer(before))]
    return _DOUBT.search(before[begins:]) is not None


def refuted(text: str, start: int, end: int) -> bool:
    """Whether a marked answer is denied beside the mark."""
    before = re.search(
        r"(?:\bnot|n't|(\banswer\s+(?:is|was|were|be|might be|could be)))\W*\Z", text[max(0, start - 120) : start]
    )
    if before and (not before[1] or doubted(text, max(0, start - 120) + before.start())):
        return True
    return _REFUTED.match(text, end, end + LINE) is not None


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
    r"[\s:：—]*(?:(?:therefore|thus|simply|just|only|option|choice|approximately|about|roughly|exactly|actually|equal\s+to"
    r"|clearly|then|always|indeed|obviously|given\s+by|found\s+to\s+be|the\s+(?:number|value))\s+)*"
    r"[：:]?\s*(?:\*\*)?\s*",
    re.IGNORECASE,
)
# One of them is in every announcement: looking for them first is ten times as fast
_ANNOUNCING = (
    "nswer",
    "NSWER",
    "inal result",
    "olution",
    "hoice",
    "ption",
    "espuesta",
    "ntwort",
    "posta",
    "ibu",
    "I answer",
)
_ELSEWHERE = ("案", "选", "選", "éponse", "твет", "答え", "정답", "คำตอบ", "উত্তর", "సమాధానం")
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
    r"|(?:is|are) (?:the|our|an?))\b|\s+\(\$?(?:or|about|≈|\\approx)|[.,;:!?)\s。；]*$|[.!。]\s+(?!\d)"
)
_JSON_END = re.compile(r"(?:\"|(?<=\d))\s*\}\s*\Z")  # {"answer": 5}
_TAKEN_BACK = re.compile(  # The answer is 7 - no, sorry, it should be 8
    r"(?<=[—–.,?!-] )no, |\b(?:sorry|oops|wait|scratch that|hold on|I mean|correction|th(?:is|at)(?: i|')s wrong)\b",
    re.I,
)
# We get 7 rather than 8.
_RATHER_THAN = re.compile(r"(?<=\d),? (?:and )?(?:not|rather than|instead of) [^.\n]{1,30}[.\s]*\Z")
_OPTION = re.compile(r"\(?[A-J][.):]\s")


def may_announce(text: str) -> bool:
    """Whether a word is in it that every announcement has."""
    return any(word in text for word in (_ANNOUNCING if text.isascii() else (*_ANNOUNCING, *_ELSEWHERE)))


def _announcement(text: str) -> re.Match[str] | None:
    """The last announcement that is not denied."""
    found = ANNOUNCED.finditer(text) if may_announce(text) else ()
    *_, last = [None, *(m for m in found if not _DENIED.match(text, m.end()) and not doubted(text, m.start()))]
    return last


def announced(text: str) -> str | None:
    """What the last announcement says the answer is, empty if that is refuted; None without one."""
    announcement = _announcement(text)
    if announcement is None:
        return None
    rest = text[announcement.end() :].lstrip()
    line = rest.partition("\n")[0]
    line = _JSON_END.sub("", line) if '"' in announcement.group() else line
    if other := _RATHER_THAN.search(line):
        line = line[: other.start()]
    if taken_back := _TAKEN_BACK.search(line):
        return within_sentence(line[taken_back.end() :])
    value = _NUMBER.match(line) or _MATH.match(line)
    if value and _REFUTED.match(line, value.end()):
        return ""
    block = _MATH.match(rest)  # may go over several lines
    if block and _CLAUSE.match(rest[block.end() :].partition("\n")[0]):
        return _inside(block)
    return _tidy(line)


def _inside(formula: re.Match[str]) -> str:
    """What stands between the marks of a formula."""
    return " ".join(next(group for group in formula.groups() if group).split()).rstrip(" .,")[: MAX_LENGTH + 1]


def _tidy(said: str) -> str | None:
    """What follows "the answer is", without Markdown, a sentence's end, or the sentence that continues."""
    said = re.sub(r"^'(.*)'(\W*)$", r"\1\2", said.strip().strip('*`"“”')).strip()
    said = re.sub(r"^([（(]?[A-J][）)]?)\s*(?:选项|選項|项)", r"\1", said)
    whole = unpunctuated(said)
    if whole and (is_readable(whole) or re.match(r"(?:yes|no)[,:;.!]\s", whole, re.IGNORECASE)):
        return whole
    if _OPTION.match(said):
        return unpunctuated(_SENTENCE_END.split(whole)[0])
    if re.search(r"\botherwise\b", said):
        return said
    math = _MATH.match(said)
    if math is None or not re.match(r"[^.;]{0,30}$", said[math.end() :]):
        said = _CONTINUES.split(said)[0]
    said = unpunctuated(said)[: MAX_LENGTH + 1]
    if said and not is_readable(said):
        said = within_sentence(_SENTENCE_END.split(whole)[0]) or said
    return said or None


# -- the sentences that may conclude

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
# 3 hours, so its speed is 60: what stands before says how
CONSEQUENCE = re.compile(
    r"[,;，]?\s+(?:so|thus|hence|therefore|giving|which (?:means|gives)(?: us)?|meaning|that is(?=,)"
    r"|(?:and )?we (?:conclude|find|get|obtain|see|deduce)"
    r"|(?:which )?(?:we )?round\w*(?: up| down)? to)\b(?: that\b)?|，(?:所以|因此|故|则)"
)
_REASON = re.compile(r"(?<=.),?\s+\(?(?:since|because|as)\b")  # 25, since 5 * 5 = 25
_SUPPOSED = re.compile(  # if it were 6, the sum would be 30
    r"\b(?:if|suppos\w+|assum\w+|would have to|unless|impossible|contradict\w+|fails?|wrong|incorrect"
    r"|at first|whether|doubt|in progress|mistake|first (?:answer|guess|attempt)"
    r"|(?:might|may|could|would) (?:think|say))\b|^\W*(?:where|given)\b[^,]*$|, find\b"
    r"|(?:^|\bwe |^\w+,? )(?:now |then )?(?:add|subtract|multiply|divide|consider"
    r"|try|let|plug|compute|use|substitute|set|choose|take)\b|\?\W*$",
    re.IGNORECASE,
)
_UNFINISHED = re.compile(
    r"(?:[,:;=+*/(，：；-]|\b(?:to|the|of|and|or|we|an?|is|are|that|with|for|by|in|as|then|get"
    r"|would|will|can|could|should|has|have|had|there|this|if|so|from|at|on|each|every|which|where|when|because|since"
    r"|but|than|not|also))\s*\Z"
)
_ASIDE = re.compile(r"(?<=[a-z]) \((?=[^()=]*[a-z]{2})[^()=\\]*\)")  # 160 minutes (2 hours and 40 minutes)
# the larger one is 18 and the smaller one is 7
_SAYS_VALUE = re.compile(r"(?:\b(?:is|are|was|were|has|have|had|gets?|takes?)\b|[=为是])\s*(?=[-\d$\\])")
_BESIDE = re.compile(r"\b(?:and|while|whereas|but)\b|[;；，而]")


def concluding(prose: str) -> list["Sentence"]:
    """The last sentence, and those of the five before it that begin with "so"; none of a text that is cut off."""
    last = _MARKS.sub("", prose.rpartition("\n")[2]).strip()
    point = re.fullmatch(r"(\d{1,2})[.)]?", last)
    if _UNFINISHED.search(prose, max(0, len(prose) - 20)) or (
        point and re.search(rf"\n\s*{int(point[1]) - 1}[.)] [^\n]*\n+\s*\d+[.)]?\Z", prose)
    ):
        return []  # also with the number of a point that was not written
    lines = [_MARKS.sub("", line).strip() for line in prose[-5 * LINE :].split("\n") if line.strip()]
    if len(lines) > 1 and _OPTION.match(lines[-1]) and _OPTION.match(lines[-2]):
        return []  # the options again
    texts = [sentence for line in lines for sentence in _SENTENCE_END.split(line) if sentence.strip()]
    found = [Sentence(prose, texts, len(texts) - 1 - i, last) for i in range(min(6, len(texts)))]
    return [sentence for sentence in found if sentence.begun or sentence.is_last]


class Sentence:
    """One sentence and what it states."""

    def __init__(self, prose: str, texts: list[str], at: int, line: str) -> None:
        self.prose, self.text, self.line = prose, texts[at], line
        self.before, self.later = texts[:at], texts[at + 1 :]
        self.is_last = not self.later
        self.begun = _CONCLUDING.match(self.text)

    @property
    def states_something_else(self) -> bool:
        """Whether a sentence that begins with "so" has a number that is not taken for the answer."""
        return self.begun is not None and _NUMBER.search(self.text) is not None

    @cached_property
    def clause(self) -> tuple[str, bool]:
        """What it says, without reasons and asides; and whether it concludes something."""
        said = self.text[self.begun.end() if self.begun else 0 :]
        worked = self.is_last and sum(bool(_NUMBER.search(text)) for text in self.before) > 1  # ends a calculation
        concludes = self.begun is not None or worked or _IN_TOTAL.search(self.text) is not None
        main = re.sub(r"^(?:Since|Because|As|[A-Z]\w+ing)\b[^,=]*, (?:which means )?(?=[a-zA-Z])", "", said)
        concludes, said = concludes or main != said, _ASIDE.sub("", main)
        if concludes and not re.search(r"\d", said):  # so there are twelve apples
            said = _NUMERAL.sub(lambda m: m[0] if m[0] == "one" else str(NUMERALS[m[1].lower()]), said)
        rest = _RATHER_THAN.search(said)
        whole = unpunctuated(said[: rest.start()] if rest else said)
        said = CONSEQUENCE.split(_REASON.split(whole)[0])[-1].lstrip(", ")
        return main_clause(said), concludes or said != whole

    @cached_property
    def states(self) -> bool:
        """Whether it states one thing, and supposes nothing."""
        said, _ = self.clause
        values = [match.end() for match in _SAYS_VALUE.finditer(said)]
        return not (_SUPPOSED.search(said) or ("answer" in said and ANNOUNCED.search(said))) and not (
            len(values) > 1 and _BESIDE.search(said, values[-2], values[-1])  # the larger is 18 and the smaller is 7
        )

    def concluded(self, rule: Callable[[str], str | None]) -> str | None:
        """What a rule finds in it, if it concludes something."""
        said, concludes = self.clause
        return rule(said) if concludes and self.states and _is_sentence(said) else None


# -- what a sentence states

# The volume of the cone is 120
_SAYS = re.compile(
    r"\b(?:is|are|be|equals?|equal to|(?:gives?|leaves?|makes?)(?: (?:us|him|her|them))?|gets?|obtain|have|has|had"
    r"|[Tt]hat's|[Ii]t's|was|were|total of)\b\s*:?|(?<!\d)[:：]|[=≈]|为|是|得到?"
)
_NAMES = re.compile(r"(?:\b(?:is|are|be|was|were)|[:：=]|为|是)\s*$")  # what stands behind may be words
# Before an answer: it is not that, or not that alone
_NOT_ALONE = re.compile(
    r"(?:\b(?:not|cannot|neither|nor|never|than|least|most|base|either|between|times|plus|minus|maybe|perhaps|depends"
    r"|except|but|when|could be|m(?:ight|ay) be|(?<!add )(?<!adds )up to|exceed\w*"
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
_CHANGES = re.compile(  # 5 less than that, 5\text{ at most}
    r"(?:\\text|\W)*(?:at\s+(?:most|least)|times(?!\W*$|\s+(?:from|in|an?|per|each|every|for|on|during)\b)"
    r"|plus|minus|less|fewer|more than|or|versus|vs|ones|tens"
    r"|tenths|hundredths|(?:is|are|was)(?:n't|\s+(?:not|wrong|incorrect|impossible|false|too))|(?:do|does|did|would)(?:n't|\s+not)"
    r"|can't|cannot|and\s+an?|\w+ to (?:consider|check|examine|try|solve|test))\b"
)
_LAST = re.compile(  # they meet at (2, -1); it falls on a Tuesday
    r"[(\[][^()\[\]]*\d[^()\[\]]*,[^()\[\]]*[)\]]\Z"
    r"|\b(?:on|is|be|was) (?:an? )?((?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day)\Z"
)
# A phrase that says when, where or of what, and no value of its own: attained at x = 5, for 3 cars, out of 20
_SIDE = re.compile(
    r",?\s+\(?(?:attained|achieved|reached|obtained|occurring|when|where|while|iff|for|with|after|before|below|above|under"
    r"|(?<!\d )out of|of which|in which|at|upon|among|given|having|until)\b"
    r"(?:(?!\b(?:is|are|was|were|equals?|gives?|total|sum)\b)[^,;=(]|(?<=[a-z])\s*=\s*)*?(?:\d|[\ue000-\uf8ff])[^,;=\d]*?"
    r"(?=[,;]|[).]*$|\s+(?:is|are|was|were|equals?|gives?)\b)",
)


def main_clause(said: str) -> str:
    """A sentence without side phrases, if a value is left: `the minimum is 10, attained at x = 5`, `12 for 3 cars`."""
    formulas = list[str]()

    def hide(match: re.Match[str]) -> str:
        formulas.append(match.group())
        return chr(0xE000 + len(formulas) - 1)

    main = _SIDE.sub("", re.sub(r",? (?:for|in|of|at) which\b.*", "", _MATH.sub(hide, said[:LINE])))
    if len(said) > LINE or re.search(r"[\ue000-\uf8ff]", said) or not re.search(r"[\d\ue000-\uf8ff]", main):
        return said
    return re.sub(r"[\ue000-\uf8ff]", lambda m: formulas[ord(m.group()) - 0xE000], main)


def within_sentence(said: str) -> str | None:
    """What a sentence says behind "the answer is"."""
    said = main_clause(unpunctuated(said))
    if not _is_sentence(said):
        return None
    return _says(said, True) or _place(said) or _only_number(said)


def _is_sentence(said: str) -> bool:
    plain = re.sub(r"\\(?:text|mbox|textbf|mathrm)\s*\{|\\[a-zA-Z]+", " ", said)
    return (
        bool(_MATH.search(said))
        or len(re.findall(r"[a-zA-Z]{2,}", plain)) > 1
        or bool(re.search(r"[\u4e00-\u9fff]", said))
    )


def _formulas(said: str) -> list[re.Match[str]]:
    return list(_MATH.finditer(said)) if len(said) <= 4 * MAX_LENGTH else []


def clause(sentence: Sentence) -> str | None:
    """All of the sentence, if it is a formula."""
    said, _ = sentence.clause
    if not (re.search(r"[\d=]", said) and is_readable(said)):
        return None
    math = _MATH.fullmatch(said)
    return _inside(math) if math else said


def said(sentence: Sentence) -> str | None:
    """What the sentence says "is" or "=": one value, or a pair."""
    said, concludes = sentence.clause
    if sentence.states:
        return _says(said, concludes) if _is_sentence(said) else None
    first = _SAYS.search(said)
    pair = (
        said[first.end() :].strip()
        if first and not (_SUPPOSED.search(said) or ("answer" in said and ANNOUNCED.search(said)))
        else ""
    )
    return pair if first and is_readable(pair) and not _NOT_ALONE.search(said[: first.end()]) else None


def _says(said: str, concluding: bool) -> str | None:
    for start, found in _candidates(said, _formulas(said), concluding):
        text = re.sub(r"^(?:on|in) (?:an? )?(?=[A-Z])", "", unpunctuated(found).lstrip("*: "))  # on a Wednesday
        alone = not _NOT_ALONE.search(said, max(0, start - 60), start)
        named = said[start : start + 1] in ("$", "\\") or _NAMES.search(said, 0, start)
        words = 3 if named and not re.search(r"\d", said) else 0
        if text and alone and is_readable(text, words):
            return text
    return None


def _candidates(said: str, formulas: list[re.Match[str]], concluding: bool) -> Iterator[tuple[int, str]]:
    """What may be the answer of a sentence, with its place: the likeliest first."""
    says = list(_SAYS.finditer(said))
    last = formulas[-1] if formulas else None
    if last and not (says and says[-1].start() >= last.end() and re.search(r"[\d$\\]", said[says[-1].end() :])):
        start, behind, inside = last.start(), said[last.end() :], _inside(last)
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


def _place(said: str) -> str | None:
    last = _LAST.search(said)
    if not last or not is_readable(last[1] or last[0]):
        return None
    return last[1] or (None if _NOT_ALONE.search(said, 0, last.start()) else last[0])


def _only_number(said: str) -> str | None:
    numbers = list(_NUMBER.finditer(said))
    money = [number for number in numbers if "$" in number.group()]
    numbers = money if len(money) == 1 else numbers  # she spends $70 on 5 baskets
    place = numbers[0].start() if len(numbers) == 1 else 0
    if len(numbers) != 1 or any(p.search(said, 0, place) for p in (_NOT_ALONE, _NUMBERED)):
        return None
    if _OBJECT.search(said, 0, place) and not _GREW.search(said, 0, place) and ":" not in numbers[0].group():
        return None
    return None if _CHANGES.match(said, numbers[0].end()) else numbers[0].group().strip()


def place(sentence: Sentence) -> str | None:
    """The point or the day that ends a sentence that concludes."""
    return sentence.concluded(_place)


def number(sentence: Sentence) -> str | None:
    """The only number of a sentence that concludes."""
    return sentence.concluded(_only_number)


# Then add both costs: $33 + $99 = $132 in total.
_CALCULATION = re.compile(
    r"\d[a-z%$/.\s]{0,30}[-–+*/x×÷−]\s*[\d$(.][^=\n]{0,200}=\s*\**\\?\$?\s*(-?\d[\d,]*(?:\.\d+)?%?)"
    r"(?![\d/^*×√(]|\s?\\?[πpxyni](?![a-hj-z])| (?:or|vs|versus)\b)"
    r"(?!.{0,80}\b(?:of (?:the )?\d|is|are|was|were|means|so|gives?|makes?)\b)[^=<>]{0,80}\Z"
)


_TRIED = re.compile(  # Let us try n = 5: 5 * 5 = 25
    r"\b(?:were\b.*\bwould|suppose|assum\w+|let|try|guess\w*|impossible|contradict\w+|fails?|wrong|incorrect|mistake|unless"
    r"|whether|check|verif\w+|at (?:least|most)|(?:is|does|do|are) not|continue|proceed)\b|(?:is|does|do|are)n't\b|\?",
    re.IGNORECASE,
)


def calculated(sentence: Sentence) -> str | None:
    """What the calculation comes to with which the last sentence ends."""
    found = _CALCULATION.search(sentence.text) if sentence.is_last else None
    return found[1] if found and not _TRIED.search(sentence.text) else None


# 9 * 2 = 18. She makes $18 a day.
_RESULT = re.compile(
    r"(?<![-+*/<>!=.])\s*[=≈]\s*\**\\?\$?\s*(-?\d[\d,]*(?:\.\d+)?)"
    r"(?![\d.,]*\s*(?:[-+*/×÷=^√(]|\\?[πpxyni](?![a-hj-z])))"
)


def repeated(sentence: Sentence) -> str | None:
    """The number of the last sentence that the last calculation came to."""
    if not sentence.is_last or _SUPPOSED.search(sentence.text):
        return None
    text, at = sentence.text, sentence.prose.rfind(sentence.text)
    results = [_plain(result) for result in _RESULT.findall(sentence.prose, max(0, at - LINE), at)]
    within = list(_RESULT.finditer(text))
    if within and re.fullmatch(r"[\s.*$\\)]*(?:[a-z]+[\s.*]*)?", text[within[-1].end() :]):
        results.append(_plain(within[-1][1]))
    text = _NUMERAL.sub(lambda m: str(NUMERALS[m[1].lower()]), text)
    *_, same = [None, *(n for n in _NUMBER.finditer(text) if results and _plain(n.group()) == results[-1])]
    if same is None or _CHANGES.match(text, same.end()) or _SAYS.search(text, same.end()):
        return None
    return None if any(p.search(text, 0, same.start()) for p in (_NOT_ALONE, _NUMBERED)) else results[-1]


def _plain(number: str) -> str:
    return number.strip(" $").replace(",", "").rstrip(".")


# -- what a completion without an answer may mean


def last_number(text: str) -> str | None:
    """The last number, not denied and no bound: too little to accept a completion, enough not to call it wrong."""
    text = text[-TAIL:]
    numbers = list(_NUMBER.finditer(text, max(0, len(text) - 100))) or list(_NUMBER.finditer(text))
    if not numbers:
        return None
    before = text[max(0, numbers[-1].start() - 60) : numbers[-1].start()].rpartition("\n")[2]
    changed = text.startswith("?", numbers[-1].end()) or _CHANGES.match(text, numbers[-1].end())
    joined = re.search(r"\d\s*(?:,|and|or)\s*$", before)
    return None if changed or joined or _NOT_ALONE.search(before) else unpunctuated(numbers[-1].group().strip())


def says(text: str, answer: str) -> bool:
    """Whether the last line has a word that is the reference answer."""
    word = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", answer).strip()
    line = text[-TAIL:].rstrip().rpartition("\n")[2]
    denied = re.search(r"\b(?:not|neither|nor|no|but|only|never|or)\b|n't", line)
    if len(word) < 3 or not word.isalpha() or len(line.split()) < 4 or denied:
        return False
    return re.search(rf"\b{word}\b", line, re.IGNORECASE) is not None
